"""The picture of a ladder: bars of the headline, their gains, and the other figures beside them."""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from common.engine.metric import BRIEF, Metric
from common.engine.rungs import REFERENCE, shown, why
from common.engine.stats import SAME, UNCHANGED
from common.engine.workload import Workload
from common.report.canvas import (
    BLUE,
    GREY,
    MIDDLE,
    ORANGE,
    RED,
    ROW,
    SMALL,
    TEXT,
    amounts,
    canvas,
    frame_texts,
    head,
    hold_labels,
    label,
    look,
    save,
    shorten,
)
from common.report.ending import headline
from common.report.plot_attribution import plot_attribution
from common.report.tables import LEGEND, device_type, gain, is_stair

__all__ = ["plot_attribution", "plot_ladder"]  # what files.py asks for
WIDE = 8  # in parts of the picture: with more beside it a stack's panel is narrow
MARKS, FEW = 5, 2  # numbers at an axis, and at a narrow one
IN_NOTES = LEGEND | {SAME: "=: the same"}


def plot_ladder(frame: pd.DataFrame, records: list[dict], workload: Workload, path: Path) -> None:
    """Draw the ladder, the baseline at the top, to a PNG that is readable at README width."""
    save(ladder_figure(frame, records, workload), path)


def ladder_figure(frame: pd.DataFrame, records: list[dict], workload: Workload):
    """The ladder's picture: bars, a column of gains, a panel per figure, and one per stack."""
    rows, stacks = frame.to_dict("records"), workload.stacks()
    gains = [gain(row["x_prev"], row["verdict"]) * bool(workload.headline.better) for row in rows]
    stacked = {metric.name for metrics in stacks.values() for metric in metrics}
    alone = [metric for metric in workload.shown(BRIEF) if metric.name not in stacked]
    column = 0.95 if len(alone) < 2 else 1.15  # more panels are narrower, its title is not
    widths = (4, *[column] * any(gains), *[1.5] * len(alone), *[2.5] * len(stacks))
    figure, panels = canvas(ROW * len(rows) + 1.7, widths, sharey=True)
    main, *others = panels
    reasons = draw_headline(main, rows, workload.headline)
    name_rows(main, rows, is_stair(frame))
    if any(gains):
        draw_gains(others.pop(0), rows, gains, is_stair(frame))
    for axes, metric in zip(others, alone, strict=False):
        draw_bars(axes, rows, metric, metric.title_on(device_type(records)))
    for axes, (title, metrics) in zip(others[len(alone) :], stacks.items(), strict=True):
        draw_stack(axes, rows, metrics, title, narrow=sum(widths) > WIDE)
    below = [notes(frame, workload.headline) if any(gains) else "", workload.describe(records)]
    frame_texts(figure, headline(records, workload), below)
    for axes in (main, *others):
        hold_labels(axes, longest(axes))
    after = panels[1 + any(gains)] if len(panels) > 1 + any(gains) else None
    end = after.get_window_extent().x0 if after else figure.bbox.width
    for reason in reasons:
        shorten(reason, 0.98 * (end - reason.get_window_extent().x0))
    return figure


def name_rows(axes, rows: list[dict], stair: bool) -> None:
    """Write numbers and names at the bars, the first one at the top."""
    if stair:
        axes.set_yticks(range(len(rows)), [f"{shown(row['rung'])}  {row['name']}" for row in rows])
    else:
        axes.set_yticks(range(len(rows)), branches(rows), family="monospace", fontsize=SMALL + 0.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def draw_headline(axes, rows: list[dict], metric: Metric) -> list:
    """Draw bars with intervals and values. Returns the texts of why others have none."""
    name, reasons = metric.name, []
    for place, row in enumerate(rows):
        if row["status"] != "ok":
            small = {"fontsize": SMALL, "color": GREY}
            at = axes.get_yaxis_transform()  # x in parts of the panel's width
            reasons.append(axes.text(0.01, place, why(row), transform=at, va="center", **small))
            reasons[-1].set_in_layout(False)  # it may run on over the column of gains
            continue
        colour = MIDDLE if row["rung"] in (0, REFERENCE) else BLUE
        if math.isfinite(row[name]):
            axes.barh(place, row[name], color=colour, height=0.72, **error_bar(row, name))
        endless = math.isfinite(row[name]) and row[f"{name}_high"] == math.inf
        label(axes, reach(row, name), place, metric.text(row[name]) + " to inf" * endless)
    head(axes, f"{metric.title}, 95 % interval" if has_intervals(rows, name) else metric.title, 40)
    amounts(axes)
    return reasons


def reach(row: dict, name: str) -> float:
    """Where a bar and its interval end, as far as they do."""
    return max((v for v in (row[name], row[f"{name}_high"]) if math.isfinite(v)), default=0.0)


def has_intervals(rows: list[dict], name: str) -> bool:
    return any(not pd.isna(row[f"{name}_high"]) for row in rows)


def draw_gains(axes, rows: list[dict], gains: list[str], stair: bool) -> None:
    """A column of gains: bold where one was told, red for a loss, grey where none was."""
    axes.set_axis_off()
    head(axes, "gain over the rung below" if stair else "gain over its base", 13)
    at = axes.get_yaxis_transform()
    for place, (row, text) in enumerate(zip(rows, gains, strict=True)):
        if row["status"] == "ok":
            colour = RED if row["x_prev"] < 1 else "black"
            of_told = {"weight": "bold", "color": colour}
            shown_as = of_told if text.startswith("x") else {"color": GREY}
            axes.text(0.02, place, text, transform=at, va="center", fontsize=TEXT, **shown_as)


def notes(frame: pd.DataFrame, metric: Metric) -> str:
    """What the column of gains means."""
    said = {UNCHANGED if v.startswith(UNCHANGED) else v for v in frame["verdict"].dropna()}
    below = "the rung below" if is_stair(frame) else "what the rung adds to"
    parts = [f"Gain: a ratio to {below}; above x1 is {metric.words[0]}"]
    parts += [" ".join(text.split()) for word, text in IN_NOTES.items() if word in said]
    return ". ".join(parts) + "."


def draw_bars(axes, rows: list[dict], metric: Metric, title: str) -> None:
    for place, row in enumerate(rows):
        if not pd.isna(row[metric.name]):
            end = row[metric.name] if math.isfinite(row[metric.name]) else 0.0
            axes.barh(place, end, color=ORANGE, height=0.72)
            label(axes, end, place, metric.text(row[metric.name]))
    amounts(axes, FEW, share=metric.form.endswith("%"))
    head(axes, title, 16)


def draw_stack(
    axes, rows: list[dict], metrics: list[Metric], title: str, narrow: bool = False
) -> None:
    """Draw bars of parts, their names above them: in two columns, or in one where it is narrow."""
    for place, metric in enumerate(metrics):
        left = [stacked(row, metrics[:place]) for row in rows]
        own = [stacked(row, [metric]) for row in rows]
        name = metric.title.partition(",")[0]
        axes.barh(range(len(rows)), own, left=left, height=0.72, label=name, **look(place))
    amounts(axes, FEW if narrow else MARKS)
    columns = 1 if narrow else 2
    lines = -(-len(metrics) // columns)
    head(axes, title, 18 if narrow else 30, above=8 + lines * 1.35 * SMALL)
    keys = {"loc": "lower left", "bbox_to_anchor": (-0.03, 1.0), "ncols": columns}
    keys |= {"borderpad": 0.2}
    tight = {"columnspacing": 0.8, "handlelength": 1.0, "labelspacing": 0.2, "frameon": False}
    axes.legend(**keys, **tight, fontsize=SMALL).set_in_layout(False)


def longest(axes) -> float:
    """Where the longest bar ends."""
    return max((bar.get_x() + bar.get_width() for bar in axes.patches), default=0.0)


def stacked(row: dict, metrics: Iterable[Metric]) -> float:
    return sum(row[metric.name] for metric in metrics if not pd.isna(row[metric.name]))


def branches(rows: list[dict]) -> list[str]:
    """Numbers and names; where a rung does not add to the one above it, a branch begins."""
    depth: dict[int, int] = {}
    labels, above = [], None
    for row in rows:
        number, on = row["rung"], ""
        base = number - 1 if pd.isna(row["base"]) else int(row["base"])
        begins = base != above and base in depth
        depth[number] = depth.get(base, 0) + begins
        twig = "   " * depth[number]
        if begins:
            twig, on = f"{twig[3:]}└─ ", f" (on {base})"
        labels.append(f"{twig}{shown(number)} {row['name']}{on}")
        above = number
    widest = max(map(len, labels))
    return [label.ljust(widest) for label in labels]


def error_bar(row: dict, name: str) -> dict:
    """matplotlib's arguments for an interval; none where there is no interval."""
    if pd.isna(row[f"{name}_low"]):
        return {}
    sides = [[row[name] - row[f"{name}_low"]], [reach(row, name) - row[name]]]
    return {"xerr": sides, "error_kw": {"ecolor": "black", "capsize": 3, "elinewidth": 1}}

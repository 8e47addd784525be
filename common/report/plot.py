"""The picture of a ladder: bars of the headline, and a panel for each of the other figures."""

import os
import textwrap
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before the import, which may refuse the user's own
import matplotlib.pyplot as plt
import pandas as pd

from common.engine.metric import BRIEF, Metric
from common.engine.rungs import shown, why
from common.engine.workload import Workload
from common.report.attribution import KINDS
from common.report.tables import device_type, gain, is_stair

plt.rcdefaults()  # whatever the user's files say: the same picture everywhere
# Okabe and Ito's palette, told apart by colour-blind people: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
IN_STACK = (BLUE, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def plot_ladder(frame: pd.DataFrame, records: list[dict], workload: Workload, path: Path) -> None:
    """Draw the ladder, the baseline at the top, to a PNG that is readable at README width."""
    rows, headline, stair = frame.to_dict("records"), workload.headline, is_stair(frame)
    stacks = workload.stacks()
    stacked = {metric.name for metrics in stacks.values() for metric in metrics}
    alone = [metric for metric in workload.shown(BRIEF) if metric.name not in stacked]
    widths = (3, *[1] * len(alone), *[2] * len(stacks))
    size = (10, 0.42 * len(rows) + 1.6 + 0.3 * bool(stacks))
    figure, panels = plt.subplots(1, len(widths), sharey=True, figsize=size, width_ratios=widths)
    main, *others = panels if len(widths) > 1 else [panels]
    draw_headline(main, rows, headline)
    below = "the rung below" if stair else "what the rung adds to"
    words = f"{headline.title}, 95 % interval (gain over {below})"
    main.set_xlabel(words if headline.better else headline.title)
    if stair:
        main.set_yticks(range(len(rows)), [f"{shown(row['rung'])}  {row['name']}" for row in rows])
    else:
        main.set_yticks(range(len(rows)), branches(rows), family="monospace", fontsize=9)
    main.set_ylim(len(rows) - 0.4, -0.6)
    for axes, metric in zip(others, alone, strict=False):
        draw_bars(axes, rows, metric)
        axes.set_xlabel(metric.title_on(device_type(records)))
    for axes, (title, metrics) in zip(others[len(alone) :], stacks.items(), strict=True):
        draw_stack(axes, rows, metrics)
        axes.set_xlabel(title)
    finish(figure, panels if len(widths) > 1 else [panels], workload.describe(records), path)


def draw_headline(axes, rows: list[dict], headline: Metric) -> None:
    name = headline.name
    highest = [max(row[name], row[f"{name}_high"] or 0) for row in rows if row["status"] == "ok"]
    best = max(highest, default=1.0) or 1.0
    for place, row in enumerate(rows):
        if row["status"] != "ok":
            axes.barh(place, 0.02 * best, fill=False, edgecolor=GREY, linestyle="--")
            reason = textwrap.shorten(why(row), 84, placeholder="…")
            axes.text(0.03 * best, place, reason, va="center", fontsize=8, color=GREY)
            continue
        axes.barh(place, row[name], color=BLUE, **error_bar(row, name))
        end = max(row[name], row[f"{name}_high"] or 0)  # NaN compares as False
        label = f"{headline.text(row[name])}  {gain(row['x_prev'], row['verdict'])}"
        label = label.replace("?", "")
        axes.text(end + 0.01 * best, place, label, va="center", fontsize=9)
    axes.set_xlim(0, 1.35 * best)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def draw_bars(axes, rows: list[dict], metric: Metric) -> None:
    values = [row[metric.name] for row in rows if not pd.isna(row[metric.name])]
    for place, row in enumerate(rows):
        if not pd.isna(row[metric.name]):
            axes.barh(place, row[metric.name], color=ORANGE)
            label = f" {metric.text(row[metric.name])}"
            axes.text(row[metric.name], place, label, va="center", fontsize=9)
    axes.set_xlim(0, 1.35 * (max(values, default=1.0) or 1.0))


def draw_stack(axes, rows: list[dict], metrics: list[Metric]) -> None:
    for metric, colour in zip(metrics, IN_STACK, strict=False):
        axes.barh(0, 0, color=colour, label=metric.title.partition(",")[0])
    for place, row in enumerate(rows):
        left = 0.0
        for metric, colour in zip(metrics, IN_STACK, strict=False):
            if not pd.isna(row[metric.name]):
                axes.barh(place, row[metric.name], left=left, color=colour)
                left += row[metric.name]
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(metrics)}
    tight = {"columnspacing": 0.8, "handlelength": 1.0, "fontsize": 8, "frameon": False}
    axes.legend(**above, **tight)


def branches(rows: list[dict]) -> list[str]:
    """Numbers and names, each indented under the rung that it adds to."""
    depth = {0: 0}
    labels = []
    for row in rows:
        number = row["rung"]
        if number > 0:
            base = number - 1 if pd.isna(row["base"]) else int(row["base"])
            depth[number] = depth.get(base, 0) + 1
        twig = "   " * (depth[number] - 1) + "└─ " if number > 0 else ""
        labels.append(f"{twig}{shown(number)} {row['name']}")
    widest = max(map(len, labels))
    return [label.ljust(widest) for label in labels]


def plot_attribution(frame: pd.DataFrame, title: str, path: Path) -> None:
    """Each rung's three gains side by side, with intervals; 1 is no gain."""
    rows = frame.to_dict("records")
    bounds = frame[[f"{kind}_{end}" for kind in KINDS for end in ("low", "high")]]
    span = (max(1 / 16, min(0.5, bounds.min(axis=None))), min(16, max(2, bounds.max(axis=None))))
    size = (10, 0.42 * len(rows) + 1.8)
    figure, panels = plt.subplots(1, len(KINDS), sharey=True, sharex=True, figsize=size)
    colours = (BLUE, ORANGE, GREEN)
    for axes, (kind, head), colour in zip(panels, KINDS.items(), colours, strict=True):
        axes.axvline(1.0, color=GREY, linewidth=0.8)
        axes.set_title(head, fontsize=10)
        for place, row in enumerate(rows):
            if pd.isna(row[kind]):
                reason = textwrap.shorten(row[f"{kind}_reason"], 34, placeholder="…")
                left = axes.get_yaxis_transform()  # x in parts of the panel's width
                axes.text(0.02, place, reason, transform=left, va="center", fontsize=7, color=GREY)
                continue
            axes.plot(row[kind], place, "o", color=colour)
            if not pd.isna(row[f"{kind}_low"]):
                bounds = [row[f"{kind}_low"], row[f"{kind}_high"]]
                axes.plot(bounds, [place, place], color=colour, linewidth=2)
        axes.set_xscale("log", base=2)
        axes.set_xlim(*span)
        axes.xaxis.set_major_formatter(lambda value, _: f"x{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("gain (x1: none), 95 % interval")
    panels[0].set_yticks(range(len(rows)), [f"{row['rung']}  {row['name']}" for row in rows])
    panels[0].invert_yaxis()
    finish(figure, panels, title, path)


def finish(figure, axes, title: str, path: Path) -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(title, 100)), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def error_bar(row: dict, name: str) -> dict:
    """matplotlib's arguments for an interval; none where there is no interval."""
    if pd.isna(row[f"{name}_low"]):
        return {}
    sides = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
    return {"xerr": sides, "error_kw": {"ecolor": "black", "capsize": 3, "elinewidth": 1}}

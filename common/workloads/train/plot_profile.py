"""The picture of where the time goes: of every rung in milliseconds, and beside it as shares."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.patheffects import withStroke
from matplotlib.transforms import blended_transform_factory

from common.engine.rungs import shown
from common.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    ROW,
    SKY,
    SMALL,
    TEXT,
    YELLOW,
    amounts,
    canvas,
    frame_texts,
    head,
    hold_labels,
    label,
    on,
    plt,
    save,
)
from common.workloads.train import layers
from common.workloads.train.layer_report import figure as digits
from common.workloads.train.layer_report import to_layers
from common.workloads.train.metrics import describe
from common.workloads.train.parts import (
    ATTENTION,
    COPIES,
    ELEMENTWISE,
    GAPS,
    LOSS,
    NETWORK,
    OPTIMIZER,
    PARTS,
    PRODUCTS,
    WAIT,
)

DARK_BLUE, BLACK = "#003B5C", "#333333"
COLOURS = {  # what is the same in both has one colour; pale where nothing computes
    PRODUCTS: BLUE,
    ATTENTION: RED,
    ELEMENTWISE: GREEN,
    LOSS: SKY,
    OPTIMIZER: ORANGE,
    COPIES: YELLOW,
    NETWORK: BLACK,
    WAIT: "#EEEEEE",
    GAPS: PALE,
    layers.EMBEDDING: PURPLE,
    layers.FEED_FORWARD: BLUE,
    layers.NORMS: GREEN,
    layers.HEAD: DARK_BLUE,
    layers.OTHER: YELLOW,
}
WAITING = {"hatch": "....", "edgecolor": "#777777"}
ROOFLINE = {"fill": False, "edgecolor": "black", "hatch": "//////", "linewidth": 0.6}
TIMED = {"color": "black", "linewidth": 1.5}
KEYS, HEADS = 0.6, 0.85  # inches of a legend, and of panels' heads and ticks
HIGH = 0.6  # of a bar, in rows
LEGIBLE, NARROW = 0.08, 1.2  # a share that has room for its figure; per cent of a block for lines
LEAST = "explained by the roofline"


def plot_profile(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Draw the parts of every profiled rung, the baseline at the top, to a PNG."""
    save(profile_figure(frame, records), path)


def profile_figure(frame: pd.DataFrame, records: list[dict]):
    """By kind of work, and by layer below, where the records tell: each in ms and as shares."""
    rows, by_layer = frame.to_dict("records"), to_layers(records).to_dict("records")
    told = any(not row["lacking"] for row in by_layer)
    explained = bool(frame["explained"].notna().any())
    pairs = [(rows, PARTS, "profiled_ms", "by kind of work")]
    pairs += [(by_layer, layers.LAYERS, "layers_ms", "by layer")] * told
    heights = [height for pair in pairs for height in (ROW * len(pair[0]), KEYS)]
    widths = (3, *[0.75] * explained, 3)
    height = sum(heights) + HEADS * len(pairs) + 0.9  # and the title, and the notes below
    figure, panels = canvas(height, widths, len(heights), height_ratios=heights)
    for place, pair in enumerate(pairs):
        draw_pair(panels[2 * place], *pair)
        draw_keys(panels[2 * place + 1], *pair[:2])
    draw_measured(panels[0][0], rows)
    if explained:
        draw_explained(panels[0][1], rows)
        for others in panels[1:]:
            others[1].set_axis_off()
    frame_texts(figure, largest(rows), [note(frame, told), describe(records)])
    for absolute, *_ in panels[::2]:
        hold_labels(absolute, 1.02 * absolute.dataLim.x1)
    return figure


def draw_pair(panels, rows: list[dict], parts: Sequence[str], whole: str, title: str) -> None:
    """The parts of every rung in ms, in the first panel, and of 100 %, in the last."""
    absolute, share = panels[0], panels[-1]
    parts = seen(parts, rows)
    draw_parts(absolute, rows, parts, lambda row: 1.0)
    draw_parts(share, rows, parts, lambda row: 100 / row[whole])
    for place, row in enumerate(rows):
        if row.get("lacking"):
            at = {"fontsize": SMALL, "color": GREY, "va": "center"}
            absolute.text(0, place, f" not by layer: {row['lacking']}", **at)
            continue
        label(absolute, max(row[whole], row.get("timed_ms", 0)), place, digits(row[whole]))
        if "blocks" in row:
            divide(share, place, row, parts, whole)
        write_shares(share, place, row, parts, whole)
    names = [f"{shown(row['rung'])}  {row['name']}" for row in rows]
    absolute.set_yticks(range(len(rows)), names)
    share.set_yticks([])
    for axes in panels:
        axes.set_ylim(len(rows) - 0.4, -0.6)
    amounts(absolute)
    share.set_xlim(0, 100)
    head(absolute, f"profiled step {title},\nms per 1000 tokens", 40)
    head(share, "the same, % of each rung's step", 44)


def draw_parts(axes, rows: list[dict], parts: Sequence[str], scale: Callable) -> None:
    """Stack the parts, each as wide as `scale` of its row times its ms."""
    edges = [0.0] * len(rows)
    for part in parts:
        for place, row in enumerate(rows):
            if not row.get("lacking"):
                width = scale(row) * row[part]
                axes.barh(place, width, left=edges[place], height=HIGH, **fill(part))
                edges[place] += width


def divide(axes, place: int, row: dict, parts: Sequence[str], whole: str) -> None:
    """Thin lines between what goes to one block and to the next, where there is room for them."""
    left = 0.0
    for part in parts:
        each = row["blocks"].get(part, [])
        edge = left
        for value in each[:-1]:
            edge += 100 * value / row[whole]
            if 100 * row[part] / row[whole] > NARROW * len(each):
                ends = place - HIGH / 2, place + HIGH / 2
                axes.vlines(edge, *ends, color="white", linewidth=0.5)
        left += 100 * row[part] / row[whole]


def fill(part: str) -> dict:
    return {"facecolor": COLOURS[part], "linewidth": 0} | (WAITING if part == WAIT else {})


def write_shares(axes, place: int, row: dict, parts: Sequence[str], whole: str) -> None:
    """Write the per cent of every part that has room for the figure."""
    left = 0.0
    for part in parts:
        share = row[part] / row[whole]
        if share >= LEGIBLE:
            middle = {"ha": "center", "va": "center", "fontsize": SMALL, "zorder": 4}
            text = f"{100 * share:.0f}"
            text = axes.text(100 * (left + share / 2), place, text, **middle)
            text.set(color=on(COLOURS[part]), path_effects=[clear_of_lines(COLOURS[part])])
        left += share


def clear_of_lines(colour: str) -> withStroke:
    return withStroke(linewidth=3, foreground=colour)


def draw_measured(axes, rows: list[dict]) -> None:
    """Beside the profile: the step that was timed without one, and the least that it could take."""
    for place, row in enumerate(rows):
        axes.plot([row["timed_ms"]] * 2, [place - 0.36, place + 0.36], **TIMED, zorder=4)
        if not pd.isna(row["explained"]):
            axes.barh(place + 0.38, row["least_ms"], height=0.16, **ROOFLINE)


def draw_explained(axes, rows: list[dict]) -> None:
    """A column: the share of the timed step that the ceilings explain."""
    axes.set_axis_off()
    head(axes, LEAST, 12)
    for place, row in enumerate(rows):
        if not pd.isna(row["explained"]):
            axes.text(0.3, place, f"{row['explained']:.0%}", va="center", fontsize=TEXT)


def seen(parts: Sequence[str], rows: list[dict]) -> list[str]:
    return [part for part in parts if any(row[part] > 0 for row in rows)]


def draw_keys(panels, rows: list[dict], parts: Sequence[str]) -> None:
    """What the colours mean, in a row of its own."""
    for axes in panels:
        axes.set_axis_off()
    keys = {part: plt.Rectangle((0, 0), 1, 1, **fill(part)) for part in seen(parts, rows)}
    if "timed_ms" in rows[0]:
        keys["timed step, without a profile"] = plt.Line2D([], [], **TIMED)
        if any(not pd.isna(row["least_ms"]) for row in rows):
            keys["roofline: least at the ceilings"] = plt.Rectangle((0, 0), 1, 1, **ROOFLINE)
    axes = panels[0]
    over = blended_transform_factory(axes.figure.transFigure, axes.transAxes)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.1), "bbox_transform": over}
    tight = {"frameon": False, "fontsize": SMALL, "ncols": 4, "columnspacing": 1.6}
    axes.legend(keys.values(), keys.keys(), **place, **tight).set_in_layout(False)


def largest(rows: list[dict]) -> str:
    """The title: the part that takes longest in the first and in the last rung's step."""
    found = []
    for row in rows[:: max(1, len(rows) - 1)]:
        part = max(PARTS, key=lambda part: row[part])
        of = f"rung {row['rung']}" if row["rung"] > 0 else row["name"]
        found.append((part, f"{row[part] / row['profiled_ms']:.0%}", of))
    if len({part for part, _, _ in found}) == 1:
        shares = " and ".join(f"{share} ({of})" for _, share, of in found)
        return f"The largest part of a step: {found[0][0]}, {shares}"
    return "The largest part of a step: " + "; ".join(f"{p}, {s} ({of})" for p, s, of in found)


def note(frame: pd.DataFrame, told: bool) -> str:
    parts = ["A profile makes a step slower: the timed step is the one that counts"]
    if frame["explained"].notna().any():
        parts.append("Roofline: the least that the measured ceilings allow, of the timed step")
    if told:
        parts.append("By layer: forward and backward, profiled apart; thin lines divide blocks")
    return ". ".join(parts) + "."

"""The picture of where the time goes: a stacked bar for every rung, and its roofline."""

from pathlib import Path

import pandas as pd

from common.engine.rungs import shown
from common.report.plot import BLUE, GREEN, ORANGE, finish, plt
from common.workloads.train.metrics import describe
from common.workloads.train.profile_report import figure as digits
from common.workloads.train.profiling import (
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

# the rest of Okabe and Ito's palette, and a light grey for where nothing computes
COLOURS = {
    PRODUCTS: BLUE,
    ATTENTION: "#D55E00",
    ELEMENTWISE: GREEN,
    LOSS: "#CC79A7",
    OPTIMIZER: ORANGE,
    COPIES: "#F0E442",
    NETWORK: "#444444",
    WAIT: "#56B4E9",
    GAPS: "#CCCCCC",
}
ROOFLINE = {"fill": False, "edgecolor": "black", "hatch": "////"}
TIMED = {"color": "black", "linewidth": 1.5}


def plot_profile(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Draw the parts of every profiled rung, the baseline at the top, to a PNG."""
    rows = frame.to_dict("records")
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(rows) + 2.4))
    longest = max(frame["profiled_ms"].max(), frame["timed_ms"].max())
    for place, row in enumerate(rows):
        left = 0.0
        for part in PARTS:
            axes.barh(place, row[part], left=left, height=0.6, color=COLOURS[part])
            left += row[part]
        axes.plot([row["timed_ms"]] * 2, [place - 0.34, place + 0.34], **TIMED)
        label = digits(row["profiled_ms"])
        if not pd.isna(row["explained"]):
            axes.barh(place + 0.38, row["least_ms"], height=0.16, **ROOFLINE)
            label += f"  (least {digits(row['least_ms'])}: {row['explained']:.0%} of the timed)"
        end = max(row["timed_ms"], row["profiled_ms"]) + 0.01 * longest
        axes.text(end, place, label, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{shown(row['rung'])}  {row['name']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * longest)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlabel("profiled step, ms per 1000 tokens")
    keys = {part: plt.Rectangle((0, 0), 1, 1, color=COLOURS[part]) for part in PARTS}
    keys["timed step"] = plt.Line2D([], [], **TIMED)
    if frame["least_ms"].notna().any():
        keys["roofline: the least at the measured ceilings"] = plt.Rectangle(
            (0, 0), 1, 1, **ROOFLINE
        )
    axes.legend(keys.values(), keys.keys(), frameon=False, fontsize=8, loc="lower right")
    finish(figure, [axes], describe(records), path)

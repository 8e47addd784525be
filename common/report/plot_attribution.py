"""The picture of attribution: what each rung gains in order, alone, and left out."""

from pathlib import Path

import pandas as pd

from common.report.attribution import KINDS
from common.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    MIDDLE,
    RED,
    ROW,
    SMALL,
    canvas,
    frame_texts,
    head,
    label,
    save,
    shorten,
)
from common.report.tables import gain

MOST = 16  # the gain at which attribution's axis ends, whatever an interval says
MEANS = {
    "in_order": "over the rung below",
    "alone": "over the baseline",
    "left_out": "of the full stack over the one without it",
}


def plot_attribution(frame: pd.DataFrame, about: str, path: Path) -> None:
    """Each rung's three gains side by side, with intervals; 1 is no gain. `about`: the run."""
    save(attribution_figure(frame, about), path)


def attribution_figure(frame: pd.DataFrame, about: str):
    rows = frame.to_dict("records")
    bounds = frame[[f"{kind}_{end}" for kind in KINDS for end in ("low", "high")]]
    span = (
        max(1 / MOST, min(0.7, bounds.min(axis=None))),
        min(MOST, max(1.5, bounds.max(axis=None))),
    )
    figure, panels = canvas(ROW * len(rows) + 1.8, (1,) * len(KINDS), sharey=True, sharex=True)
    reasons = []
    for axes, (kind, title), colour in zip(panels, KINDS.items(), (BLUE, RED, GREEN), strict=True):
        axes.axvline(1.0, color=MIDDLE, linewidth=0.8)
        head(axes, f"{title}: {MEANS[kind]}", 34)
        for place, row in enumerate(rows):
            if pd.isna(row[kind]):
                at = axes.get_yaxis_transform()  # x in parts of the panel's width
                small = {"fontsize": SMALL, "color": GREY, "va": "center", "transform": at}
                reasons.append(axes.text(0.02, place, row[f"{kind}_reason"], **small))
                reasons[-1].set_bbox({"facecolor": "white", "linewidth": 0, "pad": 1})
                reasons[-1].set_in_layout(False)
            else:
                draw_gain(axes, place, row, kind, colour)
        axes.set_xscale("log", base=2)
        axes.set_xlim(span[0], span[1] ** 1.35 / span[0] ** 0.35)
        axes.xaxis.set_major_formatter(lambda value, _: f"x{value:g}")
        axes.minorticks_off()
    panels[0].set_yticks(range(len(rows)), [f"{row['rung']}  {row['name']}" for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    scale = "Gain: a ratio, x1 is none; the axis doubles from mark to mark. Line: 95 % interval."
    frame_texts(figure, largest(rows), [scale, about])
    for reason in reasons:
        shorten(reason, 0.96 * reason.axes.get_window_extent().width)
    return figure


def draw_gain(axes, place: int, row: dict, kind: str, colour: str) -> None:
    """A dot at the gain, a line along its interval, and what was told of it."""
    end = row[kind]
    axes.plot(row[kind], place, "o", color=colour, markersize=5)
    if not pd.isna(row[f"{kind}_low"]):
        end = row[f"{kind}_high"]
        axes.plot([row[f"{kind}_low"], end], [place, place], color=colour, linewidth=2)
    label(axes, min(end, MOST), place, gain(row[kind], row[f"{kind}_verdict"]), fontsize=SMALL)


def largest(rows: list[dict]) -> str:
    """The title: which rung gains most, of each kind."""
    parts = []
    for kind, title in KINDS.items():
        told = [row for row in rows if row[kind] > 1]  # NaN is not
        told = [row for row in told if gain(row[kind], row[f"{kind}_verdict"]).startswith("x")]
        if told:
            best = max(told, key=lambda row: row[kind])
            parts.append(f"{best['name']} x{best[kind]:.2f} {title}")
    return f"Largest gains: {', '.join(parts)}" if parts else "No rung was told to gain"

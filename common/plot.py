"""The picture: a bar of tokens per second and a bar of memory for every rung."""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from common.table import describe_run, memory_label

# Okabe and Ito's palette, told apart by colour-blind people: jfly.uni-koeln.de/color
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#777777"


def plot_ladder(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Draw the ladder, the baseline at the top, to a PNG that is readable at README width."""
    rows = frame.to_dict("records")
    places = range(len(rows))
    figure, (speed, memory) = plt.subplots(
        1, 2, sharey=True, figsize=(10, 0.42 * len(rows) + 1.6), width_ratios=(3, 1)
    )
    best = frame["tok_per_s"].max()
    best = best if best > 0 else 1.0
    for place, row in zip(places, rows, strict=True):
        if row["status"] == "ok":
            speed.barh(place, row["tok_per_s"], color=BLUE)
            speed.text(row["tok_per_s"] + 0.01 * best, place, _label(row), va="center", fontsize=9)
            memory.barh(place, row["peak_reserved_gib"], color=ORANGE)
            label = f" {row['peak_reserved_gib']:.2f}"
            memory.text(row["peak_reserved_gib"], place, label, va="center", fontsize=9)
        else:
            speed.barh(place, 0.02 * best, fill=False, edgecolor=GREY, linestyle="--")
            reason = textwrap.shorten(f"{row['status']}: {row['reason']}", 84, placeholder="…")
            speed.text(0.03 * best, place, reason, va="center", fontsize=8, color=GREY)
    speed.set_yticks(places, [f"{row['rung']}  {row['name']}" for row in rows])
    speed.invert_yaxis()
    speed.set_xlim(0, 1.3 * best)
    speed.set_xlabel("tokens per second (gain over the rung below)")
    memory.set_xlabel(f"{memory_label(records[0])}, GiB")
    memory.set_xlim(0, 1.35 * (frame["peak_reserved_gib"].max() or 1.0))
    for axes in (speed, memory):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(describe_run(records), 100)), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_loss(history: list[tuple[int, float, float]], title: str, path: Path) -> None:
    """Training and validation loss over steps."""
    steps, train, validation = zip(*history, strict=True)
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(steps, train, color=BLUE, marker="o", markersize=3, label="training")
    axes.plot(
        steps,
        validation,
        color=ORANGE,
        linestyle="--",
        marker="s",
        markersize=3,
        label="validation",
    )
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(row: dict) -> str:
    gain = "" if pd.isna(row["x_prev"]) else f"  x{row['x_prev']:.2f}"
    return f"{row['tok_per_s']:,.0f}{gain}"

"""The picture: a bar of tokens per second and a bar of memory for every rung."""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from common.attribution import KINDS
from common.ladder import shown
from common.show import describe_run, gain, kept_share, memory_label

# Okabe and Ito's palette, told apart by colour-blind people: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"


def plot_ladder(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Draw the ladder, the baseline at the top, to a PNG that is readable at README width."""
    rows = frame.to_dict("records")
    places = range(len(rows))
    figure, (speed, memory) = plt.subplots(
        1, 2, sharey=True, figsize=(10, 0.42 * len(rows) + 1.6), width_ratios=(3, 1)
    )
    best = frame["tok_per_s"].max()
    best = max(best, frame["tok_per_s_high"].max()) if best > 0 else 1.0
    for place, row in zip(places, rows, strict=True):
        if row["status"] == "ok":
            speed.barh(place, row["tok_per_s"], color=BLUE, **error_bar(row, "tok_per_s"))
            end = max(row["tok_per_s"], row["tok_per_s_high"] or 0)  # NaN compares as False
            speed.text(end + 0.01 * best, place, _label(row), va="center", fontsize=9)
            memory.barh(place, row["peak_reserved_gib"], color=ORANGE)
            label = f" {row['peak_reserved_gib']:.2f}"
            memory.text(row["peak_reserved_gib"], place, label, va="center", fontsize=9)
        else:
            speed.barh(place, 0.02 * best, fill=False, edgecolor=GREY, linestyle="--")
            reason = textwrap.shorten(f"{row['status']}: {row['reason']}", 84, placeholder="…")
            speed.text(0.03 * best, place, reason, va="center", fontsize=8, color=GREY)
    speed.set_yticks(places, [_name(row) for row in rows])
    speed.invert_yaxis()
    speed.set_xlim(0, 1.35 * best)
    speed.xaxis.set_major_formatter("{x:,.0f}")
    below = "the rung below" if _is_stair(frame) else "what the rung adds to"
    speed.set_xlabel(f"tokens per second, 95 % interval (gain over {below}; ~: not measurable)")
    memory.set_xlabel(f"{memory_label(records[0])}, GiB")
    most = frame["peak_reserved_gib"].max()
    memory.set_xlim(0, 1.35 * (most if most > 0 else 1.0))
    finish(figure, (speed, memory), records, path)


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


def plot_losses(records: list[dict], path: Path) -> None:
    """The training loss of every rung over the tokens seen: the same tokens in the same order."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    first_round = [r for r in records if r["status"] == "ok" and r["series"] == "ladder"]
    first_round = sorted({r["rung"]: r for r in first_round}.values(), key=lambda r: r["rung"])
    colours = plt.cm.viridis([i / max(1, len(first_round)) for i in range(len(first_round))])
    for place, (record, colour) in enumerate(zip(first_round, colours, strict=True)):
        measured = record["measurement"]
        losses = measured["losses"]
        tokens = [measured["tokens_per_step"] * (step + 1) for step in range(len(losses))]
        width = 4 - 3 * place / max(1, len(first_round))  # thinner on top: all stay visible
        label = f"{shown(record['rung'])}  {record['name']}"
        if (held_out := measured.get("validation_loss")) is not None:
            label += f"\n    held-out text: {held_out:.3f}"
        axes.plot(tokens, losses, color=colour, linewidth=width, label=label)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("training loss, nats per token")
    if first_round:
        axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    finish(figure, [axes], records, path)


def plot_attribution(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Each rung's three gains side by side, with intervals; 1 is no gain."""
    rows = frame.to_dict("records")
    bounds = frame[[f"{kind}_{end}" for kind in KINDS for end in ("low", "high")]]
    span = (max(1 / 16, min(0.5, bounds.min(axis=None))), min(16, max(2, bounds.max(axis=None))))
    figure, panels = plt.subplots(
        1, len(KINDS), sharey=True, sharex=True, figsize=(10, 0.42 * len(rows) + 1.8)
    )
    for axes, (kind, title), colour in zip(
        panels, KINDS.items(), (BLUE, ORANGE, GREEN), strict=True
    ):
        axes.axvline(1.0, color=GREY, linewidth=0.8)
        axes.set_title(title, fontsize=10)
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
    finish(figure, panels, records, path)


def finish(figure, axes, records: list[dict], path: Path) -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(describe_run(records), 100)), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def error_bar(row: dict, name: str) -> dict:
    """matplotlib's arguments for an interval; none where there is no interval."""
    if pd.isna(row[f"{name}_low"]):
        return {}
    sides = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
    return {"xerr": sides, "error_kw": {"ecolor": "black", "capsize": 3, "elinewidth": 1}}


def _name(row: dict) -> str:
    """The rung's number and name, and the rung it adds to where that is not the one below."""
    on = "" if _on_the_rung_below(row) else f" (on {row['base']:.0f})"
    return f"{shown(row['rung'])}  {row['name']}{on}"


def _is_stair(frame: pd.DataFrame) -> bool:
    return all(map(_on_the_rung_below, frame.to_dict("records")))


def _on_the_rung_below(row: dict) -> bool:
    return pd.isna(row["base"]) or row["base"] == row["rung"] - 1


def _label(row: dict) -> str:
    kept = "" if pd.isna(row["efficiency"]) else f" ({kept_share(row)})"
    return f"{row['tok_per_s']:,.0f}  {gain(row['x_prev'], row['verdict']).replace('?', '')}{kept}"

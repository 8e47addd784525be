"""The picture of the way to a loss: held-out loss over tokens and over seconds, with all seeds."""

from pathlib import Path

import numpy as np

from common.engine.rungs import shown
from common.report.canvas import (
    GREY,
    PALETTE,
    SMALL,
    TEXT,
    amounts,
    canvas,
    frame_texts,
    head,
    save,
)
from common.workloads.convergence.metrics import TOKENS
from common.workloads.train.metrics import describe

BAND = (25, 75)  # per cent: the middle half of the seeds
AFTER = 0.15  # of the tokens: the fall before it, which all share, is left above the picture
COLOURS = (GREY, *PALETTE[:-1], "black", "brown", "navy")  # the foot's first


def plot_curves(records: list[dict], path: Path) -> None:
    """Draw every rung's median loss, and a band of its seeds', to a PNG."""
    save(curves_figure(records), path)


def curves_figure(records: list[dict]):
    rungs, target = by_rung(records), records[0]["settings"]["target"]
    figure, (left, right, keys) = canvas(4.4, (3, 3, 2))
    ends = [target]  # of the losses that are to be seen
    for place, rounds in enumerate(rungs.values()):
        tokens, seconds, losses = curves(rounds)
        middle, (low, high) = np.median(losses, 0), np.percentile(losses, BAND, 0)
        colour = COLOURS[place % len(COLOURS)]
        for axes, x in ((left, tokens), (right, seconds)):
            axes.plot(x, middle, color=colour, linewidth=1.3)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        late = tokens >= AFTER * tokens[-1]
        ends += [*low[late], middle[late][0]]
        keys.plot([0, 0.1], [place, place], color=colour, linewidth=2)
        keys.text(0.14, place, f"{shown(rounds[0]['rung'])} {rounds[0]['name']}", va="center",
                  fontsize=SMALL)  # fmt: skip
    room = 0.04 * (max(ends) - min(ends)) or 0.1
    for axes, unit in ((left, "tokens"), (right, "seconds of training")):
        axes.axhline(target, color="black", linestyle=":", linewidth=1)
        axes.set_xlabel(unit, fontsize=TEXT)
        axes.set_xlim(left=0)
        axes.set_ylim(min(ends) - room, max(ends) + room)
        amounts(axes, 4)
    head(left, "held-out loss, nats per token", 40)
    head(right, f"dotted: the target, {target:.3f}", 40)
    keys.set_axis_off()
    keys.set_xlim(0, 1)
    keys.set_ylim(max(len(rungs), 12) - 0.5, -0.5)
    seeds = max(map(len, rungs.values()), default=0)
    below = f"Lines: medians of {seeds} seeds; bands: the middle half of them."
    frame_texts(figure, title(rungs), [below, describe(records)])
    return figure


def by_rung(records: list[dict]) -> dict[int, list[dict]]:
    """The ladder's rounds, of which a resumed run's last count, from the foot up."""
    found: dict[int, dict[int, dict]] = {}
    for record in records:
        if record["status"] == "ok":
            found.setdefault(record["rung"], {})[record["round"]] = record
    return {number: [*found[number].values()] for number in sorted(found)}


def curves(rounds: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (N,), the median of the seconds (N,), and each seed's losses (S, N)."""
    seeds = np.array([record["measurement"]["curve"] for record in rounds], float)
    return seeds[0, :, 0], np.median(seeds[:, :, 1], 0), seeds[:, :, 2]


def title(rungs: dict[int, list[dict]]) -> str:
    """Which rung needs the fewest tokens, and how many the first one does."""
    medians = {n: float(np.median([*map(TOKENS.of, rounds)])) for n, rounds in rungs.items()}
    if not medians:
        return "No rung was measured"
    first, best = min(medians), min(medians, key=medians.get)
    each = [f"{rungs[n][0]['name']}, {TOKENS.text(medians[n])}" for n in (first, best)]
    return f"Tokens to the target: {each[0]}" + (f"; {each[1]}" if best != first else "")

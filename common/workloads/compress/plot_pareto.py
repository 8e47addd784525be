"""Pictures: bytes against loss, bytes against speed, and what each matrix costs in each format."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.engine.rungs import shown
from common.report.canvas import ORANGE, PALE, SMALL, TEXT, canvas, frame_texts, head, look, save
from common.report.scatter import name_points, scatter
from common.workloads.compress.choices import AsTrained
from common.workloads.compress.metrics import MIB, describe
from common.workloads.train.metrics import tok_per_s
from common.workloads.train.recipe import plain

ROW = 0.24  # inches of a matrix
LARGE = 1.0  # nats: worse models are drawn at the panel's upper end


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of points (bytes, loss) that no other one beats in both, the smallest first."""
    order, found, least = sorted(range(len(points)), key=lambda n: points[n]), [], float("inf")
    for place in order:
        if points[place][1] < least:
            found.append(place)
            least = points[place][1]
    return found


def plot_pareto(records: list[dict], path: Path) -> None:
    """Draw every rung by its bytes, over its loss and over its speed, to a PNG."""
    save(pareto_figure(records), path)


def pareto_figure(records: list[dict]):
    latest = {r["rung"]: r for r in records if r["status"] == "ok" and r["series"] == "ladder"}
    rungs = [latest[number] for number in sorted(latest)]
    sizes = [r["measurement"]["file_bytes"] / MIB for r in rungs]
    losses = [r["measurement"]["quality"]["delta"] for r in rungs]
    speeds = [tok_per_s(r) for r in rungs]
    figure, (left, right, keys) = canvas(4.2, (4, 4, 2.6))
    by_loss = [(size, min(loss, LARGE)) for size, loss in zip(sizes, losses, strict=True)]
    by_speed = [*zip(sizes, speeds, strict=True)]
    scatter(left, by_loss)
    ends = [[r["measurement"]["quality"][f"delta_{end}"] for r in rungs] for end in ("low", "high")]
    if None not in ends[0]:
        left.vlines(sizes, *(np.minimum(end, LARGE) for end in ends), PALE, zorder=0)
    equal = [n for n, record in enumerate(rungs) if not trained_on(record)]
    best = [equal[n] for n in front([(sizes[n], losses[n]) for n in equal])]
    left.plot(*zip(*(by_loss[n] for n in best), strict=True), color=ORANGE, linewidth=1, zorder=1)
    head(left, "loss over float32's, nats, 95 % interval", 42)
    scatter(right, by_speed)
    head(right, "decoding, tok/s", 40)
    for axes in (left, right):
        axes.set_xlabel("file, MiB", fontsize=TEXT)
        axes.set_xlim(0, 1.1 * max(sizes))
    right.set_ylim(0, 1.1 * max(speeds))
    keys.set_axis_off()
    names = "\n".join(f"{shown(r['rung']):>2} {r['name']}" for r in rungs)
    keys.text(0, 1, names, va="top", fontsize=SMALL, family="monospace", linespacing=1.5)
    high = (
        f"{shown(record['rung'])} ({loss:+.2f})"
        for record, loss in zip(rungs, losses, strict=True)
        if loss > LARGE
    )
    above = ", ".join(high)
    said = f"Above {LARGE:g} nats, at the upper end: {above}. " if above else ""
    if len(equal) < len(rungs):
        longer = ", ".join(shown(record["rung"]) for record in rungs if trained_on(record))
        said += f"Trained longer than float32, so neither on the line nor in the headline: {longer}"
    figures = [[of[n] for n in equal] for of in (rungs, sizes, losses)]
    frame_texts(figure, title(*figures), [said, describe(records)])
    numbers = [shown(r["rung"]) for r in rungs]
    name_points(left, by_loss, numbers)
    name_points(right, by_speed, numbers)
    return figure


def trained_on(record: dict) -> bool:
    """Whether a rung trains the base further: its loss is then held to its controls', not here."""
    return record["recipe"]["training"] != plain(AsTrained)


def title(rungs: list[dict], sizes: list[float], losses: list[float], most: float = 0.05) -> str:
    """The smallest model that loses little."""
    good = [n for n, loss in enumerate(losses) if loss <= most]
    if not good or rungs[0]["rung"] > 0:
        return "Bytes, loss, and speed"
    best = min(good, key=lambda n: (sizes[n], losses[n]))
    times = sizes[0] / sizes[best]
    return f"{times:.1f} times smaller at {losses[best]:+.4f} nats: {rungs[best]['name']}"


def plot_sensitivity(options: dict, about: str, path: Path) -> None:
    """Draw what each matrix costs in each format, to a PNG. `options`: see sensitivity.Options."""
    names, labels = list(options), list(next(iter(options.values())))
    figure, (left, right) = canvas(
        1.6 + ROW * len(names) * max(1, len(labels) / 2), (1, 1), sharey=True
    )
    height = 0.8 / len(labels)
    for place, label in enumerate(labels):
        rows = [row + place * height for row in range(len(names))]
        sizes = [options[name][label][0] / MIB for name in names]
        left.barh(
            rows, [options[name][label][1] for name in names], height, label=label, **look(place)
        )
        right.barh(rows, sizes, height, **look(place))
    left.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    left.invert_yaxis()
    left.legend(frameon=False, fontsize=SMALL)
    head(left, "change of the loss, nats, with that matrix only", 50)
    head(right, "bytes, MiB", 30)
    worst = max(names, key=lambda name: max(change for _, change in options[name].values()))
    frame_texts(figure, f"The most sensitive: {worst}", [about])
    save(figure, path)

"""A picture: what is learnt and what is forgotten, over the parameters that are trained."""

from pathlib import Path
from statistics import median

from common.engine.rungs import shown
from common.report.canvas import ORANGE, SMALL, TEXT, canvas, frame_texts, head, save
from common.report.scatter import name_points, scatter
from common.workloads.train.metrics import describe


def plot_reached(records: list[dict], path: Path) -> None:
    """Draw every rung's losses over its trained parameters, to a PNG."""
    save(reached_figure(records), path)


def reached_figure(records: list[dict]):
    rungs = by_rung(records)
    trained = [rung for rung in rungs if count_of(rung)]
    base = next((rung for rung in rungs if not count_of(rung)), None)
    figure, (left, right, keys) = canvas(4.0, (4, 4, 2.8))
    drawn = {}
    for axes, key, text in (
        (left, "held_out_loss", "learnt: held-out loss of both texts, nats"),
        (right, "base_text_loss", "forgotten: loss on the base's text, nats"),
    ):
        drawn[axes] = [(count_of(rung), middle(rung, key)) for rung in trained]
        if base:
            axes.axhline(middle(base, key), color=ORANGE, linewidth=1)
        head(axes, text, 44)
        axes.set_xlabel("trained parameters", fontsize=TEXT)
        if trained:
            scatter(axes, drawn[axes])
            axes.set_xscale("log")
    keys.set_axis_off()
    names = [f"{shown(rung[0]['rung']):>2} {rung[0]['name']}" for rung in trained]
    keys.text(0, 1, "\n".join(names), va="top", fontsize=SMALL, family="monospace", linespacing=1.5)
    line = f"Line: {base[0]['name']}" if base else ""
    frame_texts(figure, title(trained), [line, describe(records)])
    for axes, points in drawn.items():
        if points:
            name_points(axes, points, [shown(rung[0]["rung"]) for rung in trained])
    return figure


def by_rung(records: list[dict]) -> list[list[dict]]:
    """The records of every rung that was measured, in order; one for each seed."""
    found: dict[int, dict[int, dict]] = {}
    for record in records:
        if record["status"] == "ok" and record["series"] == "ladder":
            found.setdefault(record["rung"], {})[record["round"]] = record
    return [[*found[number].values()] for number in sorted(found)]


def count_of(rung: list[dict]) -> int:
    return rung[0]["measurement"]["trainable_parameters"]


def middle(rung: list[dict], key: str) -> float:
    """The median over seeds."""
    return median(record["measurement"][key] for record in rung)


def title(rungs: list[list[dict]]) -> str:
    """How near the nearest to all parameters' loss comes, and with how few."""
    if len(rungs) < 2:
        return "Loss over trained parameters"
    most = max(rungs, key=count_of)
    others = [rung for rung in rungs if count_of(rung) < count_of(most)]
    best = min(others, key=lambda rung: middle(rung, "held_out_loss"), default=None)
    if best is None:
        return "Loss over trained parameters"
    far = middle(best, "held_out_loss") - middle(most, "held_out_loss")
    share = count_of(best) / count_of(most)
    name, whole = best[0]["name"], most[0]["name"].lower()
    return f"{name}: {share:.2%} of the parameters, {far:+.3f} nats over {whole}"

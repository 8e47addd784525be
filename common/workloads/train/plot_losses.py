"""Pictures of losses: of the scripts over steps, of a ladder's rungs beside the baseline's."""

from collections.abc import Sequence
from pathlib import Path

from common.engine.rungs import called, shown
from common.report.canvas import (
    BLUE,
    GREY,
    MIDDLE,
    ORANGE,
    PALE,
    PALETTE,
    SMALL,
    TEXT,
    canvas,
    frame_texts,
    head,
    save,
)
from common.workloads.train.metrics import describe

COLOURS = (*PALETTE[:-1], "black")  # a thin yellow line is hard to see on white
STYLES = ("-", "--", ":")  # where there are more curves than colours
ENTRY = 0.2  # inches of a rung in the table beside the panels


def plot_loss(history: list[tuple], title: str, path: Path) -> None:
    """Training and validation loss over steps, and the learning rate, if known, on its own axis.

    A point: step, the two losses, and the learning rate or None.
    """
    steps, train, validation, rates = zip(*history, strict=True)
    figure, (axes,) = canvas(4.4)
    draw_rates(axes, steps, rates)
    small = {"markersize": 3}
    axes.plot(steps, train, color=BLUE, marker="o", label="training", **small)
    axes.plot(steps, validation, "--", color=ORANGE, marker="s", label="validation", **small)
    axes.set_xlabel("step", fontsize=TEXT)
    head(axes, "loss, nats per token", 60)
    axes.legend(frameon=False, fontsize=TEXT)
    end = f"Validation loss {validation[0]:.2f} to {validation[-1]:.2f} at step {steps[-1]:,}"
    frame_texts(figure, end, [title])
    save(figure, path)


def draw_rates(axes, steps: Sequence[int], rates: Sequence[float | None]) -> None:
    """On an axis at the right, from 0 on, behind the losses."""
    known = [(step, rate) for step, rate in zip(steps, rates, strict=True) if rate is not None]
    if not known:
        return
    right = axes.twinx()
    right.plot(*zip(*known, strict=True), ":", color=MIDDLE)
    right.set_ylim(bottom=0)
    right.set_ylabel("learning rate (dotted)", fontsize=TEXT, color=GREY)
    right.tick_params(labelsize=TEXT, colors=GREY)
    right.spines["top"].set_visible(False)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)


def plot_losses(records: list[dict], path: Path) -> None:
    """Draw every rung's training loss, and below how far each is from the baseline's, to a PNG."""
    save(losses_figure(records), path)


def losses_figure(records: list[dict]):
    """Losses over steps, and differences from the first rung of those that can be subtracted."""
    latest = {r["rung"]: r for r in records if r["status"] == "ok" and r["series"] == "ladder"}
    rungs = [latest[number] for number in sorted(latest)]
    like = [record for record in rungs[1:] if alike(record, rungs[0])]
    height = max(2.9 + 2.2 * bool(like), 1.9 + ENTRY * len(rungs))
    figure, panels = canvas(height, (3, 2), 1 + bool(like), sharex="col")
    panels = panels if like else [panels]
    above, below = panels[0][0], panels[-1][0]
    for place, record in enumerate(rungs):
        losses = record["measurement"]["losses"]
        above.plot(range(1, len(losses) + 1), losses, **line(place))
        if record in like:
            far = differences(record, rungs[0])
            below.plot(range(1, len(far) + 1), far, **line(place))
    head(above, "training loss, nats per token", 60)
    below.set_xlabel("step", fontsize=TEXT)
    if like:
        head(below, f"difference from {rungs[0]['name']}, nats per token", 60)
        below.axhline(0, **line(0))
    for axes in (row[1] for row in panels):
        axes.set_axis_off()
    frame_texts(figure, closest(rungs, like), [note(rungs, like), describe(records)])
    draw_keys(panels[0][1], panels[-1][1], rungs, like)
    return figure


def alike(record: dict, base: dict) -> bool:
    """Whether both take the same tokens at every step."""
    return len({one["measurement"]["tokens_per_step"] for one in (record, base)}) == 1


def differences(record: dict, base: dict) -> list[float]:
    """The loss less the baseline's, at every step that both took."""
    losses = (one["measurement"]["losses"] for one in (record, base))
    return [own - its for own, its in zip(*losses, strict=False)]


def furthest(record: dict, base: dict) -> float:
    return max((abs(far) for far in differences(record, base)), default=0.0)


def line(place: int) -> dict:
    """How a rung's curve looks: the first wide and pale, for what coincides lies on it."""
    if place == 0:
        return {"color": PALE, "linewidth": 4, "zorder": 1}
    style = STYLES[(place - 1) // len(COLOURS) % len(STYLES)]
    colour = COLOURS[(place - 1) % len(COLOURS)]
    return {"color": colour, "linestyle": style, "linewidth": 1.1, "zorder": 2}


def draw_keys(first, last, rungs: list[dict], like: list[dict]) -> None:
    """A table beside the panels: each curve's colour, rung, distance, and held-out loss."""
    figure = first.figure
    top, bottom = first.get_position(), last.get_position()
    axes = figure.add_axes((top.x0, bottom.y0, top.width, top.y1 - bottom.y0))
    axes.set_in_layout(False)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    rows = axes.get_window_extent().height / figure.dpi / ENTRY
    axes.set_ylim(rows - 0.5, -0.5)
    small = {"fontsize": SMALL, "va": "center"}
    columns = (0.83, [cell(record, rungs[0], like) for record in rungs], "furthest", bool(like))
    held_out = [held(record) for record in rungs]
    for x, texts, title, any_of in (columns, (1.0, held_out, "held-out", any(held_out))):
        for place, text in enumerate([title, *texts] if any_of else []):
            axes.text(x, place, text, ha="right", color="black" if place else GREY, **small)
    for place, record in enumerate(rungs):
        axes.plot([0, 0.07], [place + 1] * 2, **line(place))
        name = f"{shown(record['rung'])} {record['name']}".strip()
        axes.text(0.1, place + 1, name, **small)


def cell(record: dict, base: dict, like: list[dict]) -> str:
    """How far a rung's loss is from the baseline's at most."""
    if record is base:
        return ""
    return f"{furthest(record, base):.2g}" if record in like else "other batch"


def held(record: dict) -> str:
    loss = record["measurement"].get("validation_loss")
    return "" if loss is None else f"{loss:.3f}"


def closest(rungs: list[dict], like: list[dict]) -> str:
    """The title: how far any rung's loss is from the baseline's."""
    if not rungs:
        return "No rung was measured"
    whose = "the baseline" if rungs[0]["rung"] <= 0 else called(rungs[0])
    if not like:
        return f"Training loss of {whose}"
    which = "Every rung's" if len(like) == len(rungs) - 1 else "At the same batch every rung's"
    worst = max(furthest(record, rungs[0]) for record in like)
    far = f"stays within {worst:.2g} nats of" if worst else "is the same as"
    return f"{which} training loss {far} {whose}'s"


def note(rungs: list[dict], like: list[dict]) -> str:
    """Which curves can be subtracted, and what the table's figures are."""
    if len(rungs) < 2:
        return ""
    tokens = rungs[0]["measurement"]["tokens_per_step"]
    parts = [f"Same tokens in the same order, {tokens:,} at every step"] * bool(like)
    for record in rungs[1:]:
        if record not in like:
            own = record["measurement"]["tokens_per_step"]
            why = f"takes {own:,} tokens a step, not {tokens:,}"
            parts.append(f"{called(record).capitalize()} {why}: no difference is drawn")
    if like:
        parts.append("Furthest: the largest difference at a step that both took")
    return ". ".join(parts) + "."

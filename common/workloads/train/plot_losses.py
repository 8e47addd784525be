"""Pictures of losses: of the scripts over steps, of a ladder's rungs over tokens."""

from pathlib import Path

from common.engine.rungs import shown
from common.report.plot import BLUE, ORANGE, finish, plt
from common.workloads.train.metrics import describe


def plot_loss(history: list[tuple[int, float, float]], title: str, path: Path) -> None:
    """Training and validation loss over steps."""
    steps, train, validation = zip(*history, strict=True)
    figure, axes = plt.subplots(figsize=(7, 4))
    small = {"markersize": 3}
    axes.plot(steps, train, color=BLUE, marker="o", label="training", **small)
    axes.plot(steps, validation, "--", color=ORANGE, marker="s", label="validation", **small)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.legend(frameon=False)
    finish(figure, [axes], title, path)


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
    finish(figure, [axes], describe(records), path)

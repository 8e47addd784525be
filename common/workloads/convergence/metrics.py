"""The figures of the way to a loss, read from its records."""

import math
from dataclasses import replace

from common.engine.gains import Gains
from common.engine.metric import BRIEF, CSV, LOWER, PAGE, SEEDS, Metric
from common.engine.plan import LADDER
from common.engine.rungs import shown
from common.engine.stats import is_open
from common.workloads.train import metrics


def to_target(key: str):
    """A reader of what it took; infinite where the target was not reached."""

    def read(record: dict) -> float:
        value = record["measurement"][key]
        return math.inf if value is None else value

    return read


def seconds_of_all(record: dict) -> float:
    """Of training."""
    return sum(record["measurement"]["step_s"])


TOKENS = Metric(
    name="tokens_to_target",
    title="tokens",
    of=to_target("tokens_to_target"),
    limit=lambda record: record["settings"]["tokens"],
    better=LOWER,
    noise=SEEDS,
    words=("fewer", "more"),
)
SECONDS = Metric(
    name="seconds_to_target",
    title="to target, s",
    of=to_target("seconds_to_target"),
    limit=seconds_of_all,
    better=LOWER,
    noise=SEEDS,
    form=",.1f",
    shown=BRIEF,
)
FINAL = Metric(
    name="final_loss",
    title="final loss",
    of=metrics.measured("final_loss"),
    better=LOWER,
    form=".3f",
    shown=BRIEF,
)
REACHED = Metric(
    name="reached",
    title="seeds that reached it",
    of=lambda record: float(record["measurement"]["tokens_to_target"] is not None),
    over="mean",
    form=".0%",
)
RATE_FOUND = Metric(
    name="learning_rate",
    title="learning rate",
    of=lambda record: record["recipe"]["learning_rate"],
    over="first",
    form=".2g",
)
OF_A_STEP = tuple(
    metric
    for metric in metrics.OF_A_STEP
    if metric.name in ("step_ms", "gradient_error", "batch_size")
)
METRICS = (
    TOKENS,
    SECONDS,
    FINAL,
    REACHED,
    RATE_FOUND,
    replace(metrics.RATE, shown=PAGE),
    replace(metrics.RESERVED, shown=CSV),
    *OF_A_STEP,
)


def seconds_text(records: list[dict]) -> str:
    """Seconds to the target over the foot's, seed by seed, judged as tokens are in the table."""
    gains = Gains(records, SECONDS)
    groups = gains.over_baseline()
    told, said, rows = gains.told(groups), gains.verdicts(groups), gains.of(LADDER)
    lines = []
    for number, estimate in told.items():
        low, ratio, high = (math.exp(v) for v in (estimate.low, estimate.value, estimate.high))
        name = rows[number][-1]["name"]
        verdict = "not told" if is_open(said[number]) else said[number]
        ends = f"({low:.2f} to {high:.2f})"
        lines.append(f"{shown(number):>2} {name:<25}{f'x{ratio:.2f}':>8} {ends:<18} {verdict}")
    head = "   seconds to the target, over the foot's (95 %, all rungs); above x1 is faster"
    return "\n".join([head, *lines]) if lines else ""


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    settings = records[0]["settings"]
    seeds = max(record["round"] for record in records)
    finals = ", ".join(
        f"{rate}: {'no number' if loss is None else format(loss, '.3f')}"
        for rate, loss in settings["pilot"]["final"].items()
    )
    return (
        f"{metrics.describe(records)}. {seeds} seeds of weights and order, {settings['tokens']:,} "
        f"tokens (bytes of text) each; target {settings['target']:.3f} nats, set before by a pilot "
        f"of the foot (final loss by learning rate: {finals}). Every rung's learning rate is the "
        f"best of as many, by one seed more. {metrics.origin(records)}"
    )

"""The figures of the way to a loss, read from its records."""

import math
from dataclasses import replace

from common.engine.gains import Gains
from common.engine.metric import BRIEF, CSV, LOWER, PAGE, SEEDS, Metric
from common.engine.plan import LADDER
from common.engine.rungs import shown
from common.engine.stats import is_open
from common.workloads.convergence.curve import Point, told
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


def text_below(records: list[dict]) -> str:
    """Two more tables, judged seed by seed as tokens are in the ladder's."""
    tables = (
        (
            "seconds to the target, over the foot's",
            "above x1 is faster",
            over_foot(records, SECONDS),
        ),
        (
            "tokens to the loss where the foot ended",
            "x2 is half",
            over_foot(to_foots_end(records), TOKENS),
        ),
    )
    return "\n".join(
        "\n".join([f"   {what} (95 %, all rungs); {meaning}", *lines])
        for what, meaning, lines in tables
        if lines
    )


def over_foot(records: list[dict], metric: Metric) -> list[str]:
    """A line for each rung of the table."""
    gains = Gains(records, metric)
    groups = gains.over_baseline()
    estimates, said, rows = gains.told(groups), gains.verdicts(groups), gains.of(LADDER)
    lines = []
    for number, estimate in estimates.items():
        low, ratio, high = (math.exp(v) for v in (estimate.low, estimate.value, estimate.high))
        name = rows[number][-1]["name"]
        verdict = "not told" if is_open(said[number]) else said[number]
        ends = f"({low:.2f} to {high:.2f})"
        lines.append(f"{shown(number):>2} {name:<25}{f'x{ratio:.2f}':>8} {ends:<18} {verdict}")
    return lines


def to_foots_end(records: list[dict]) -> list[dict]:
    """The same, with another target: the final loss of the foot with the same seed."""
    whole = [record for record in records if record["status"] == "ok"]
    finals = {
        record["round"]: record["measurement"]["final_loss"]
        for record in whole
        if record["series"] == LADDER and record["rung"] == 0
    }
    found = []
    for record in whole:
        target = finals.get(record["round"])
        if target is not None:
            curve = [Point(*point) for point in record["measurement"]["curve"]]
            found.append(record | {"measurement": record["measurement"] | told(curve, target)})
    return found


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

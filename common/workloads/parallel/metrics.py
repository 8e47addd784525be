"""What the parallel ladder shows beside its rates: memory by what for, bytes sent, the bubble."""

from dataclasses import replace

from common.engine.metric import LOWER, PAGE, Metric
from common.workloads.train.metrics import EFFICIENCY, OF_A_STEP, PROCESSES, RATE, RESERVED

MIB = 2**20
HELD = {"parameters": "weights", "gradients": "grads", "optimizer": "optim", "activations": "activ"}


def held_mib(what: str):
    """MiB of the process that holds most; see inspect.weigh for what is counted."""
    return lambda record: record["measurement"]["parallel"]["memory_bytes"][what] / MIB


def sent_mib(record: dict) -> float:
    """MiB handed to collectives in a step, before what they make of it.

    Of the process that hands over most; a ring all-reduce sends nearly twice that.
    """
    return sum(record["measurement"]["parallel"]["sent_bytes"].values()) / MIB


def each(rows: list[dict]) -> dict[int, float]:
    """Tokens per second of one of the processes."""
    rates = {row["rung"]: row for row in rows if row.get("tok_per_s")}
    return {number: row["tok_per_s"] / row["processes"] for number, row in rates.items()}


def of_bubble(key: str):
    """A share of a pipeline's time in which its stages wait; None without a pipeline."""
    return lambda record: (record["measurement"]["parallel"]["bubble"] or {}).get(key)


MEMORY = tuple(
    Metric(
        name=f"{what}_mib",
        title=f"{what}, MiB",
        of=held_mib(what),
        over="first",
        better=LOWER,
        form=",.1f",
        stack="memory of one process, MiB",
        short=short,
    )
    for what, short in HELD.items()
)
OWN = (
    Metric(
        name="sent_mib",
        title="sent in a step, MiB",
        of=sent_mib,
        over="first",
        better=LOWER,
        form=",.1f",
        short="sent",
        legend="weights to sent: MiB of one process, sent in a step",
    ),
    replace(
        EFFICIENCY,
        shown=PAGE,
        short="kept",
        legend="kept: of as many times one process's rate",
    ),
    Metric(
        name="idle",
        title="idle",
        of=of_bubble("idle"),
        better=LOWER,
        form=".0%",
        short="idle",
        legend="idle: of a pipeline's stages, and predicted for equal ones",
    ),
    Metric(
        name="idle_predicted",
        title="idle, predicted for equal stages",
        of=of_bubble("predicted"),
        over="first",
        form=".0%",
        short="(equal)",
    ),
    Metric(name="tok_per_s_each", title="tok/s of each", derive=each, form=",.0f"),
    replace(PROCESSES, shown=PAGE),
)
METRICS = (RATE, *MEMORY, *OWN, replace(RESERVED, shown=PAGE), *OF_A_STEP)

"""What the ladder `data` shows: tokens of documents per second, and what keeps them waiting."""

from dataclasses import replace

from common.engine.metric import BRIEF, CSV, EXACT, HIGHER, LOWER, PAGE, Metric
from common.workloads.train import metrics

MIB = 2**20


def of_feed(key: str):
    """A reader of one figure of the feed; None where it is not known."""
    return lambda record: record["measurement"]["feed"][key]


def loader_rate(record: dict) -> float:
    measured = record["measurement"]
    return measured["tokens_per_step"] / measured["feed"]["loader_s"]


REAL = replace(metrics.RATE, name="real_tok_per_s", title="real tok/s")
PADDING = Metric(
    name="padding_waste",
    title="padding",
    of=of_feed("padding"),
    over="first",
    better=LOWER,
    noise=EXACT,
    form=".1%",
    shown=BRIEF,
)
WAIT = Metric(
    name="wait_share",
    title="waits for data",
    of=metrics.data_wait,
    better=LOWER,
    form=".1%",
    short="waits",
    legend="waits: the share of the time in which training waits for a batch",
)
LOADER = Metric(
    name="loader_tok_per_s",
    title="loader alone, tok/s",
    of=loader_rate,
    better=HIGHER,
    short="loader",
    legend="loader: real tok/s of the loader alone, an epoch at a time",
)
STARTUP = Metric(
    name="startup_s",
    title="first batch after, s",
    of=of_feed("first_batch_s"),
    better=LOWER,
    form=".2f",
    short="start, s",
    legend="start: until the first batch, with all that is prepared for it",
)
WORKER = Metric(
    name="worker_bytes",
    title="unique memory of a worker, MiB",
    of=of_feed("worker_bytes"),
    over="max",
    better=LOWER,
    form=",.1f",
    scale=MIB,
    short="worker",
    legend="worker: MiB that only the largest worker holds",
)
BATCHES = Metric(
    name="batches",
    title="batches in an epoch",
    of=of_feed("batches"),
    over="first",
    better=LOWER,
    noise=EXACT,
)
OWN = ("first_step_s", "loss", "validation_loss", "gradient_error", "utilisation", "batch_size")
KEPT = tuple(metric for metric in metrics.OF_A_STEP if metric.name in OWN)
EPOCH = Metric(
    name="epoch_ms", title="epoch, ms", of=metrics.step_ms, better=LOWER, form=",.1f", shown=CSV
)
METRICS = (
    REAL,
    PADDING,
    WAIT,
    LOADER,
    STARTUP,
    WORKER,
    BATCHES,
    EPOCH,
    replace(metrics.RESERVED, shown=PAGE),
    *KEPT,
)

"""What the ladder `finetune` shows: what is learnt and forgotten, and what that takes."""

from dataclasses import replace

from common.engine.metric import BRIEF, CSV, EXACT, HIGHER, LOWER, PAGE, SEEDS, Metric
from common.workloads.train import metrics
from common.workloads.train.metrics import measured

MIB = 2**20


def tok_per_s(record: dict) -> float | None:
    """Of training; None where nothing is trained."""
    return metrics.tok_per_s(record) if record["measurement"]["trainable_parameters"] else None


def switch_ms(record: dict) -> float | None:
    """None: the served model cannot change its text, or has nothing to change."""
    seconds = record["measurement"]["switch_s"]
    return None if seconds is None else 1e3 * seconds


def counted(name: str, title: str, short: str, **more) -> Metric:
    """Bytes, in MiB for people."""
    return Metric(
        name=name,
        title=f"{title}, MiB",
        of=measured(name),
        over="first",
        better=LOWER,
        noise=EXACT,
        form=",.2f",
        scale=MIB,
        short=short,
        **more,
    )


LOSS = Metric(
    name="held_out_loss",
    title="held-out loss",
    of=measured("held_out_loss"),
    better=LOWER,
    noise=SEEDS,
    words=("lower", "higher"),
    form=".3f",
)
TRAINABLE = Metric(
    name="trainable_parameters",
    title="trained parameters",
    of=measured("trainable_parameters"),
    over="first",
    better=LOWER,
    noise=EXACT,
    shown=BRIEF,
)
METRICS = (
    LOSS,
    TRAINABLE,
    Metric(
        name="base_text_loss",
        title="loss on the base's text",
        of=measured("base_text_loss"),
        better=LOWER,
        noise=SEEDS,
        form=".3f",
        short="base text",
        legend="base text: held-out loss there; what it is above rung 0's is forgotten",
    ),
    replace(metrics.RATE, of=tok_per_s, short="tok/s"),
    counted("gradient_bytes", "gradients", "grads"),
    counted("moment_bytes", "moments", "moments"),
    counted("peak_tensor_bytes", "peak tensors", "peak", legend="grads to peak, task: MiB"),
    counted("task_bytes", "stored for a text", "task"),
    Metric(
        name="switch_ms",
        title="switch, ms",
        of=switch_ms,
        better=LOWER,
        form=",.2f",
        short="switch",
        legend="switch: ms until the model answers for the other text",
    ),
    Metric(
        name="served_tok_per_s",
        title="answering, tok/s",
        of=measured("served_tok_per_s"),
        better=HIGHER,
        short="answers",
        legend="answers: tok/s of the forward pass to the last norm",
    ),
    Metric(
        name="learning_rate",
        title="learning rate",
        of=lambda record: record["recipe"]["learning_rate"],
        over="first",
        form="g",
    ),
    Metric(
        name="start_error",
        title="error at the start",
        of=lambda record: record["equivalence"].get("error"),
        over="first",
        form=".0e",
        shown=CSV,
    ),
    replace(metrics.RESERVED, shown=PAGE),
    *(m for m in metrics.OF_A_STEP if m.name in ("step_ms", "utilisation", "batch_size")),
)


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    one, settings = metrics.first_measured(records), records[0]["settings"]
    weights, texts = (one["weights"]["source"], one["text_source"]) if one else ("?", "?")
    updates = (settings["steps"] + settings["warmup"]) // 2
    seeds = max(record["round"] for record in records)
    return (
        f"{metrics.describe(records)}. {updates} updates on each text, {seeds} seeds. Base: "
        f"{weights}. Texts: {texts}. {metrics.origin(records)}"
    )

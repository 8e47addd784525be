"""The figures of a training step, read from its records."""

from statistics import mean, median

from common.diagnose import rules
from common.diagnose.finding import ALARM
from common.diagnose.readings import Readings
from common.engine.machine import device_text
from common.engine.metric import BRIEF, CSV, HIGHER, LOWER, Metric


def tok_per_s(record: dict) -> float:
    """Tokens per second at the median step of one process."""
    measured = record["measurement"]
    return measured["tokens_per_step"] / median(measured["step_s"])


def measured(key: str):
    """A reader of one field of the measurement; None where it is missing."""
    return lambda record: record["measurement"].get(key)


def step_ms(record: dict) -> float:
    return 1e3 * median(record["measurement"]["step_s"])


def loss(record: dict) -> float:
    """The mean training loss of the first timed steps, as many as all rungs have."""
    measured = record["measurement"]
    losses, timed = measured["losses"], len(measured["step_s"])
    return mean(losses[-timed:][: record["settings"]["steps"]])


def flops_per_s(record: dict) -> float:
    """FLOP/s of one device."""
    devices = record.get("processes") if record["settings"]["device"] != "cpu" else 1
    return tok_per_s(record) * record["flops_per_token"] / (devices or 1)


def share_of(flops: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation; None for an unknown peak, or one that was beaten and so is wrong."""
    return flops / peak if peak and flops <= peak else None


def mfu(record: dict) -> float | None:
    return share_of(flops_per_s(record), record["peak_flops"])


def of_ceiling(record: dict) -> float | None:
    ceiling = record["ceilings"].get(record["format"])
    return flops_per_s(record) / ceiling if ceiling else None


def data_wait(record: dict) -> float:
    return record["measurement"]["data_wait_s"] / record["measurement"]["window_s"]


def joule_per_ktok(record: dict) -> float | None:
    one = record["measurement"]
    joules = record["window"].get("energy_j")
    tokens = len(one["step_s"]) * one["tokens_per_step"]
    return None if joules is None else 1e3 * joules / tokens


def low_utilisation(window: dict, data_wait_share: float, batch_size: int) -> str | None:
    """A warning with the likely cause if the GPU was idle too often. `data_wait_share`: 0 to 1."""
    busy = window.get("utilisation")
    seen = Readings(device="cuda", busy=busy, data_wait=data_wait_share, batch_size=batch_size)
    found = rules.device(seen)
    return found.sentence if found.verdict == ALARM else None


def efficiency(rows: list[dict]) -> dict[int, float]:
    """The share of one process's rate that each of several keeps, by rung.

    The one process is the nearest rung below that is measured with one; without it there is none.
    """
    by_rung = {row["rung"]: row for row in rows if row.get("tok_per_s")}
    found = {}
    for number, row in by_rung.items():
        below = row
        while below and (below.get("processes") or 1) > 1:
            base = below["base"] if below["base"] is not None else below["rung"] - 1
            below = by_rung.get(base)
        if below and below is not row:
            found[number] = row["tok_per_s"] / row["processes"] / below["tok_per_s"]
    return found


RATE = Metric(name="tok_per_s", title="tok/s", of=tok_per_s, better=HIGHER)
RESERVED = Metric(
    name="peak_reserved_gib",
    title="peak reserved, GiB",
    titles={"cpu": "peak resident set, GiB"},
    of=measured("peak_reserved_gib"),
    over="max",
    better=LOWER,
    form=".2f",
    shown=BRIEF,
)
PROCESSES = Metric(
    name="processes", title="processes", of=lambda r: r.get("processes"), over="first", shown=CSV
)
EFFICIENCY = Metric(
    name="efficiency",
    title="efficiency",
    derive=efficiency,
    better=HIGHER,
    form=".0%",
    shown=CSV,
)
OF_A_STEP = (
    Metric(name="step_ms", title="step, ms", of=step_ms, better=LOWER, form=",.2f", shown=CSV),
    Metric(  # the cold one: later rounds find caches
        name="first_step_s",
        title="first step, s",
        of=measured("first_step_s"),
        over="first",
        better=LOWER,
        form=".1f",
    ),
    Metric(
        name="peak_allocated_gib",
        title="peak allocated, GiB",
        of=measured("peak_allocated_gib"),
        over="max",
        better=LOWER,
        form=".2f",
    ),
    Metric(name="loss", title="loss", of=loss, over="first", better=LOWER, form=".3f"),
    Metric(
        name="validation_loss",
        title="held-out loss",
        of=measured("validation_loss"),
        over="first",
        better=LOWER,
        form=".3f",
    ),
    Metric(
        name="gradient_error",
        title="gradient error",
        of=lambda r: r["equivalence"].get("worst_gradient_error"),
        over="first",
        form=".0e",
    ),
    Metric(name="mfu", title="MFU", of=mfu, better=HIGHER, form=".1%"),
    Metric(name="of_ceiling", title="of ceiling", of=of_ceiling, better=HIGHER, form=".1%"),
    Metric(name="data_wait", title="data wait", of=data_wait, better=LOWER, form=".1%", shown=CSV),
    Metric(
        name="joule_per_ktok",
        title="J / 1000 tok",
        of=joule_per_ktok,
        better=LOWER,
        form=".2f",
    ),
    Metric(
        name="utilisation",
        title="utilisation",
        of=lambda r: r["window"].get("utilisation"),
        form=".0%",
        shown=CSV,
    ),
    Metric(
        name="batch_size",
        title="batch",
        of=lambda r: r["recipe"]["batch_size"],
        over="first",
        shown=CSV,
    ),
)


def describe(records: list[dict]) -> str:
    """Device, shape, and versions in one line."""
    recipe = records[0]["baseline"]
    return described(records, f"batch {recipe['batch_size']}, dropout {recipe['dropout']:g}")


def described(records: list[dict], own: str) -> str:
    """The same with what else a workload tells of it."""
    first = records[0]
    shape = first["settings"]["shape"]
    return (
        f"{device_text(first['machine'])}, {shape['layers']} layers, {shape['heads']} heads, "
        f"width {shape['emb_dim']}, context {shape['context']}, {own}, "
        f"torch {first['versions']['torch']}, {first['date']}"
    )


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    found = first_measured(records)
    text = found["text_source"] if found else "?"
    return f"{describe(records)}. {taken(records)}. Text: {text}. {origin(records)}"


def first_measured(records: list[dict]) -> dict | None:
    """The first measurement; None: none was made."""
    return next((r["measurement"] for r in records if r["status"] == "ok"), None)


def origin(records: list[dict]) -> str:
    """The code that was measured, and the command that did it."""
    first = records[0]
    changed = " (changed)" if first["dirty"] else ""
    remark = f" ({first['remark']})" if first.get("remark") else ""
    return f"Commit {str(first['commit'])[:10]}{changed}: `{first['command']}`{remark}"


def taken(records: list[dict]) -> str:
    """How many timed steps were taken, after how many."""
    rounds, settings = max(record["round"] for record in records), records[0]["settings"]
    after = f"after {settings['warmup']}"
    if not records[0].get("clock"):
        return f"{rounds} round(s) of {settings['steps']} timed steps {after}"
    steps = [len(r["measurement"]["step_s"]) for r in records if r["status"] == "ok"]
    of_each = f"{min(steps, default=0)} to {max(steps, default=0)} timed steps of each"
    return f"{rounds} generations of processes in turns, {of_each} {after}"


def ceilings(records: list[dict]) -> str:
    """What the device did at best, in one line; empty if it was not measured."""
    found = records[0]["ceilings"]
    products = [f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in found.items() if k != "copy"]
    if not products:
        return ""
    return f"Measured ceilings: {', '.join(products)}, copy {found['copy'] / 1e9:.1f} GB/s."


METRICS = (RATE, RESERVED, *OF_A_STEP, PROCESSES, EFFICIENCY)

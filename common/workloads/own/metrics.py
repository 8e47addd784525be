"""The figures of a step of a user's model, read from its records."""

from dataclasses import replace
from statistics import median

from common.engine.machine import device_text
from common.engine.metric import CSV, HIGHER, LOWER, Metric
from common.workloads.train.metrics import OF_A_STEP, RESERVED, data_wait, measured, origin, taken

STARVED = 0.1  # of a step's time, in batch()
# relative, between two askings: a model that differs more from itself cannot be compared
STEADY = 1e-2
MIB = 2**20
SHARED = ("step_ms", "first_step_s", "peak_allocated_gib", "loss", "gradient_error", "data_wait")


def rate(record: dict) -> float:
    """Items per second at the median step of one process."""
    one = record["measurement"]
    return one["units_per_step"] / median(one["step_s"])


def first_step_s(record: dict) -> float | None:
    """The first step of the first process that ran the recipe, with compiling it.

    Where a rung chose among candidates, that process tried the chosen one. None: a cache had what
    an earlier run compiled, so what compiling takes is not known.
    """
    one = record.get("first_try") or record["measurement"]
    return None if one.get("from_cache") else one["first_step_s"]


def compiled_before(records: list[dict]) -> str:
    """That what compiling takes is not known of some rungs; empty where it is."""
    good = [r for r in records if r["status"] == "ok" and r["recipe"]["compile"]]
    known = {record["rung"] for record in good if first_step_s(record) is not None}
    if not (unknown := sorted({record["rung"] for record in good} - known)):
        return ""
    rungs = f"rung{'s' * (len(unknown) > 1)} {', '.join(map(str, unknown))}"
    return (
        f"What compiling takes is not known of {rungs}: a cache had it, from an earlier run; "
        "with an empty folder as TORCHINDUCTOR_CACHE_DIR all is compiled anew."
    )


def describe(records: list[dict]) -> str:
    """Device, model, and versions in one line."""
    first = records[0]
    about, recipe = first["baseline"]["about"], first["baseline"]
    return (
        f"{device_text(first['machine'])}, {name(first)}: {about['name']}, "
        f"{about['parameters'] / 1e6:,.2f} M parameters, batch {recipe['batch_size']}, "
        f"torch {first['versions']['torch']}, {first['date']}"
    )


def name(record: dict) -> str:
    """The user's file, without its folder."""
    return record["settings"]["file"].replace("\\", "/").rpartition("/")[2]


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    first = records[0]
    counts = next((r["measurement"]["units"] for r in records if r["status"] == "ok"), "?")
    file = f"{name(first)} {first['settings']['sha256'][:12]}."
    parts = (f"Items: {counts}. {taken(records)}.", file, compiled_before(records), origin(records))
    return " ".join([f"{describe(records)}.", *filter(None, parts)])


METRICS = (
    Metric(name="units_per_s", title="items/s", of=rate, better=HIGHER, form=",.4g"),
    replace(RESERVED, spared=True),
    Metric(
        name="peak_tensor_bytes",
        title="tensors of a step, MiB",
        of=measured("peak_tensor_bytes"),
        over="first",
        better=LOWER,
        form=",.1f",
        scale=MIB,
        spared=True,
    ),
    *(
        replace(metric, of=first_step_s) if metric.name == "first_step_s" else metric
        for metric in OF_A_STEP
        if metric.name in SHARED
    ),
    Metric(
        name="samples_per_step",
        title="batch",
        of=measured("samples_per_step"),
        over="first",
        shown=CSV,
    ),
)


def starved(record: dict) -> list[str]:
    """That the steps waited for batch(), if they did."""
    if (share := data_wait(record)) <= STARVED:
        return []
    return [
        f"batch() takes {share:.0%} of a step, which no rung changes; see --ladder data and "
        "python -m steps.diagnose"
    ]

"""One device's measured step, from records or as published; what the published DDP figure takes.

Units: seconds, bytes, GB/s of 1e9 bytes in one direction per GPU, GiB of 2^30 bytes.
"""

import math
from dataclasses import dataclass

from common.engine.device import GIB
from common.engine.errors import UserError
from common.engine.records import as_records_of
from common.forecast.network import (
    HIGHEST_GB_PER_S,
    LOWEST_GB_PER_S,
    NVLINK_3,
    Link,
    efficiency,
    states_bytes,
)
from common.gpt.model import parameter_sizes
from common.gpt.shape import Shape
from common.report.comparison import read_run
from common.report.frame import to_frame
from common.workloads.train.build import padded_vocab_size
from common.workloads.train.metrics import RESERVED
from common.workloads.train.published import published
from common.workloads.train.recipe import Recipe
from common.workloads.train.workload import TRAINING
from steps import LADDER

ITEM_BYTES = {"torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One device's training step, and the model it trained."""

    source: str  # where the figures are from
    device: str
    memory: str  # what the peak counts
    tok_per_s: float
    tokens_per_step: int
    peak_gib: float
    tensors: tuple[int, ...]  # bytes of each parameter, in the model's order
    item_bytes: int  # per parameter

    @property
    def step_s(self) -> float:
        return self.tokens_per_step / self.tok_per_s

    @property
    def parameters(self) -> int:
        return self.parameter_bytes // self.item_bytes

    @property
    def parameter_bytes(self) -> int:
        """Of the weights, and of the gradients."""
        return sum(self.tensors)

    @property
    def activations_gib(self) -> float:
        """The peak without the states: what does not shrink with more GPUs."""
        return max(0.0, self.peak_gib - states_bytes("DDP", self.parameter_bytes, 1) / GIB)


def from_records(path: str, rung: int | None) -> Measured:
    """A rung of the last run in a records file or folder, the fastest by default.

    Of one process: what several made together is no device's rate. Raises UserError where it was
    not measured.
    """
    with as_records_of(path):
        records = [r for r in read_run(path) if r["series"] == "ladder"]
        frame = to_frame([r for r in records if processes(r) == 1], TRAINING)
        rows = frame[frame["status"] == "ok"].set_index("rung")
        number = rung if rung is not None or rows.empty else rows["tok_per_s"].idxmax()
        if number not in rows.index:
            raise UserError(not_there(path, number, records, rows.index))
        row = rows.loc[number]
        rounds = [r for r in records if r["rung"] == number and r["status"] == "ok"]
        record, shape = rounds[-1], Shape(**rounds[-1]["settings"]["shape"])
        recipe = record["recipe"]
        return Measured(
            source=f"rung {number} ({row['name']}), one process, {len(rounds)} round(s), "
            f"of {path}, {record['date']}",
            device=record["machine"]["device"],
            memory=RESERVED.title_on(record["machine"]["device_type"]).removesuffix(", GiB"),
            tok_per_s=float(row["tok_per_s"]),
            tokens_per_step=record["measurement"]["tokens_per_step"],
            peak_gib=float(row["peak_reserved_gib"]),
            **model_facts(
                shape, recipe.get("vocab_multiple", 1), recipe.get("dtype", "torch.float32")
            ),
        )


def processes(record: dict) -> int:
    """How many made the record's figures together; older records tell only of several."""
    told = record.get("measurement", {}).get("parallel", {}).get("processes")
    return record.get("processes") or told or 1


def not_there(path: str, number: int | None, records: list[dict], measured) -> str:
    """Why the forecast cannot start from that rung; from any, where it is None."""
    several = {r["rung"]: processes(r) for r in records if r["status"] == "ok"}
    found = ", ".join(map(str, measured)) or "none"
    if several.get(number, 1) > 1:
        told = f"--rung {number}: {several[number]} processes made it together in {path}"
        return f"{told}; measured by one: {found}"
    if number is None:
        return f"{path}: no rung was measured there (status ok) by one process"
    return f"--rung {number}: not measured in {path}; measured: {found}"


def model_facts(shape: Shape, vocab_multiple: int, dtype: str) -> dict:
    """`Measured`'s facts about the model. Raises UserError for a dtype of unknown size."""
    if dtype not in ITEM_BYTES:
        raise UserError(f"records of dtype {dtype}; known: {', '.join(ITEM_BYTES)}")
    vocab_size = padded_vocab_size(Recipe(vocab_multiple=vocab_multiple), shape)
    sizes = parameter_sizes(shape, vocab_size)
    item = ITEM_BYTES[dtype]
    return {"tensors": tuple(item * size for size in sizes), "item_bytes": item}


def from_published(rung: int | None = None) -> Measured:
    """A published rung on one A100, the last by default. Raises UserError for another rung."""
    rows = published()
    top = rows.index[rows["gpus"] == 1].max()  # our ladder may have more rungs by now
    number = top if rung is None else rung
    if not 0 <= number <= top:
        raise UserError(f"--rung {number}: on one GPU rungs 0 to {top} are published")
    row, recipe = rows.loc[number], LADDER.compose(Recipe(), range(number + 1))
    batch = 32 if number == top else 8  # the published scripts' batch_size
    return Measured(
        source=f"rung {number} ({row['name']}), as published; not measured here",
        device="one A100",
        memory="reserved",
        tok_per_s=float(row["tok_per_s"]),
        tokens_per_step=batch * Shape().context,
        peak_gib=float(row["reserved_gib"]),
        **model_facts(Shape(), recipe.vocab_multiple, str(recipe.dtype)),
    )


def calibrate(
    measured: Measured, world: int, target: float, overlap: float, latency_s: float
) -> float | None:
    """The GB/s at which DDP on `world` GPUs of one node has the efficiency `target`.

    None where no rate from LOWEST_GB_PER_S to HIGHEST_GB_PER_S gives it.
    """

    def reaches(gb_per_s: float) -> bool:
        link = Link(name="tried", gb_per_s=gb_per_s, latency_s=latency_s)
        return efficiency(measured.step_s, measured.tensors, world, link, overlap) >= target

    low, high = LOWEST_GB_PER_S, HIGHEST_GB_PER_S
    if reaches(low) or not reaches(high):
        return None
    while high / low > 1 + 1e-9:  # efficiency never falls as the rate grows
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def published_ddp(measured: Measured) -> dict:
    """What would have to be true for the published figure on four GPUs.

    `gb_per_s`: by overlap, of a ring that alone explains it; `nvlink`: efficiency by overlap;
    `lost_s`: per step; `elsewhere_s`: of it, what NVLink without overlap does not explain.
    """
    rows, step_s = published(), measured.step_s
    row = rows[rows["gpus"] > 1].iloc[0]
    world, latency_s = int(row["gpus"]), NVLINK_3.latency_s
    target = float(row["tok_per_s"]) / world / measured.tok_per_s
    nvlink = {o: efficiency(step_s, measured.tensors, world, NVLINK_3, o) for o in (0, 1)}
    elsewhere_s = step_s / target - step_s / nvlink[0]
    # published clock: an evaluation in every 10 steps on one GPU, in every 5 on four (eval_freq of
    # the two scripts), so that a step on four bears 1/5 - 1/10 of one more
    evaluation_s = elsewhere_s / (1 / 5 - 1 / 10)
    return {
        "gpus": world,
        "tok_per_s": float(row["tok_per_s"]),
        "efficiency": target,
        "gb_per_s": {o: calibrate(measured, world, target, o, latency_s) for o in (0, 1)},
        "nvlink": nvlink,
        "lost_s": step_s / target - step_s,
        "elsewhere_s": elsewhere_s,
        "evaluation_s": evaluation_s,
        "tok_per_s_without_evaluation": measured.tokens_per_step / (step_s - evaluation_s / 10),
        "memory_gib_more": float(row["reserved_gib"]) - measured.peak_gib,
    }

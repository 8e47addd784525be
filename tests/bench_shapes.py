"""The beyond ladder at real shapes, what its rungs leave open decided in advance: no candidates.

python -m tests.bench_shapes SHAPE [RUNGS [PAGES]]: into results/runs/beyond-SHAPE, and a row.
Rung 0 is the straightforward script: the ten steps at this batch, with the eager loss. RUNGS are 9,
the top without 8-bit products, and 10, with them, or those given (4,6,7,8,9). Products stay
bfloat16, or float32 where the CPU multiplies that alone (rung 5), chunks have 1,024 tokens (3).
Attention stays fused (7) where weights that are kept would take more memory than rung 0: in float32
at 124m-1024, with one window and four. PAGES (2) are "tcmalloc" where the system has it, "huge
pages" elsewhere, or those given; of "kept pages" a process may hold more than rung 0.
python -m tests.bench_shapes losses: the losses of 200 steps of rungs 0, 9, and 10 at `cpu`.
"""

import math
import sys
from dataclasses import replace

import torch

from common.accelerator import pages
from common.cli import run
from common.cli.runs import RUNS
from common.engine.gains import Gains
from common.engine.ladder import no_candidates
from common.engine.records import Records
from common.report.frame import to_frame
from ladders.beyond import (
    LADDER,
    step02_page_faults,
    step05_product_format,
    step07_blockwise_attention,
)

SHAPES = {  # layers, heads, width, context, windows in a step, and a budget
    "6x8x256": (6, 8, 256, 1024, 1, "6m"),
    "6x6x384": (6, 6, 384, 512, 1, "6m"),
    "124m-256": (12, 12, 768, 256, 1, "6m"),
    "124m-1024": (12, 12, 768, 1024, 1, "7m"),
    "124m-1024-4": (12, 12, 768, 1024, 4, "25m"),
}
USUAL = "0,9,10"
MORE = "9m"  # for rungs one by one, with the steps' baseline beside them


def decided(rung, kind: str, name: str):
    """The rung without candidates: what it would choose is chosen here."""
    own = replace(rung, candidates=no_candidates)
    if rung.module is step02_page_faults:
        return replace(own, apply=lambda recipe: replace(recipe, environment=pages.choices()[kind]))
    if rung.module is step05_product_format:
        return replace(own, applies=lambda device, recipe: "decided: products stay as they are")
    if rung.module is step07_blockwise_attention and name.startswith("124m-1024"):
        return replace(own, applies=lambda *given: fused(*given) or rung.applies(*given))
    return own


def fused(device, recipe) -> str | None:
    in_float32 = "decided: the fused kernel keeps no weights"
    return in_float32 if recipe.dtype is torch.float32 else None


def usual_pages() -> str:
    """By default, of the ways to get memory."""
    return pages.TCMALLOC if pages.TCMALLOC in pages.choices() else pages.HUGE


def main(name: str, rungs: str = USUAL, kind: str = "") -> None:
    own = tuple(decided(rung, kind or usual_pages(), name) for rung in LADDER.rungs)
    object.__setattr__(LADDER, "rungs", own)
    if usual := rungs == USUAL:
        object.__setattr__(LADDER, "reference", "")  # gains are those over the lowest
    if name == "losses":
        own = f"--preset cpu --steps 200 --rounds 1 --validate --out {RUNS / 'beyond-losses'}"
        sys.exit(run.main(["--ladder", "beyond", "--only", rungs, *own.split()]))
    *sizes, budget = SHAPES[name]
    options = ("--layers", "--heads", "--emb-dim", "--context", "--batch-size")
    shape = [str(one) for pair in zip(options, sizes, strict=True) for one in pair]
    out = RUNS / "-".join(["beyond", name, *([] if usual else ["rungs"]), *kind.split()])
    own = ["--only", rungs, "--budget", budget if usual else MORE, "--out", str(out)]
    run.main(["--ladder", "beyond", "--preset", "cpu", *shape, *own])
    print(row(name, Records(out / "records.jsonl").read()))


def row(name: str, records: list[dict]) -> str:
    """Of README's table: the shape, and of each rung its tok/s, its share of the ceiling, and its
    ratio to the lowest one with the 95 % interval."""
    gains, frame = Gains(records, LADDER.workload.headline), to_frame(records, LADDER.workload)
    lowest, *above = sorted(number for number in gains.rungs if number >= 0)
    over = {n: gains.ratio(gains.rungs[n], gains.rungs[lowest]) for n in above}
    rates, shares = (frame.set_index("rung")[name] for name in ("tok_per_s", "of_ceiling"))
    layers, heads, width, context, windows, _ = SHAPES[name]
    cells = {lowest: "x".join(map(str, (layers, heads, width, context)))}
    cells[lowest] += f", batch {windows} | " if windows > 1 else " | "
    for number, one in gains.estimates(over).items():
        low, ratio, high = map(math.exp, (one.low, one.value, one.high))
        cells[number] = f", x{ratio:.2f} ({low:.2f}–{high:.2f})"
    found = [f"{rates[n]:,.0f} ({shares[n]:.0%}){text}" for n, text in cells.items() if n != lowest]
    return f"| {cells[lowest]}{rates[lowest]:,.0f} ({shares[lowest]:.0%}) | {' | '.join(found)} |"


if __name__ == "__main__":
    main(*sys.argv[1:])

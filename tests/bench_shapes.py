"""The beyond ladder at real shapes, what its rungs leave open decided in advance: no candidates.

python -m tests.bench_shapes [SHAPE ...]: about 6 minutes each, into results/runs/beyond-SHAPE.
Rung 0 is the straightforward script: the ten steps at this batch, with the eager loss. Products
stay bfloat16 (rung 5), pages are kept (2), chunks have 1,024 tokens (3).
"""

import sys
from dataclasses import replace

from common.cli import run
from common.cli.runs import RUNS
from common.engine.ladder import no_candidates
from ladders.beyond import LADDER, step05_product_format

SHAPES = {  # layers, heads, width, context, windows in a step, and a budget
    "6x8x256": (6, 8, 256, 1024, 1, "6m"),
    "6x6x384": (6, 6, 384, 512, 1, "6m"),
    "124m-256": (12, 12, 768, 256, 1, "7m"),
    "124m-1024": (12, 12, 768, 1024, 1, "9m"),
    "124m-1024-4": (12, 12, 768, 1024, 4, "25m"),
}


def decided(rung):
    if rung.module is step05_product_format:
        return replace(rung, applies=lambda device, recipe: "decided: products stay bfloat16")
    return replace(rung, candidates=no_candidates)


def main(names: list[str]) -> None:
    object.__setattr__(LADDER, "rungs", tuple(map(decided, LADDER.rungs)))
    object.__setattr__(LADDER, "reference", "")  # gains are those over rung 0
    for name in names or SHAPES:
        *sizes, budget = SHAPES[name]
        options = ("--layers", "--heads", "--emb-dim", "--context", "--batch-size")
        shape = [str(one) for pair in zip(options, sizes, strict=True) for one in pair]
        rungs = "0,4,6,7,8,9" if name.startswith("124m") else "0,1,2,3,4,6,7,8,9"  # memory
        own = ["--only", rungs, "--budget", budget, "--preset", "cpu"]
        run.main(["--ladder", "beyond", *shape, *own, "--out", str(RUNS / f"beyond-{name}")])


if __name__ == "__main__":
    main(sys.argv[1:])

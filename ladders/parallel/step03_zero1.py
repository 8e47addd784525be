"""3. ZeRO-1.

Changes: each process keeps the optimizer's state of its share of the parameters, updates that
share, and sends it to the others.
Why: AdamW's two moments are as large as two copies of the model; each process holds one n-th.
Cost: the updated parameters are sent once more (broadcasts after the all-reduce).
When not: if the whole state fits in memory.
Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; torch's ZeroRedundancyOptimizer.
"""

from dataclasses import replace

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe

BASE = 1
CHANGES = ("optimizer",)
NUMERICS = Numerics.ROUNDING


class ShardedAdamW(ZeroRedundancyOptimizer):
    """AdamW whose state is shared out among the processes."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, optimizer_class=torch.optim.AdamW, **settings)


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    held, all_of_it = run.memory["optimizer"], 2 * run.memory["whole_parameters"]
    if run.recipe.data > 1 and held > 0.9 * all_of_it:
        raise NotInEffect("this process holds all of the optimizer's state")
    return f"{held / all_of_it:.0%} of state"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, optimizer=ShardedAdamW)

"""5. ZeRO-3.

Changes: a block's parameters are freed after its forward pass and gathered again for its backward
pass (reshard_after_forward).
Why: a process holds the whole parameters of only a block or two at a time, beside embedding and
head. Models can be trained that do not fit one device.
Cost: parameters are gathered twice: half as many bytes again as DDP sends.
When not: if the whole weights fit in memory.
Source: Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
from ladders.parallel.step04_zero2 import ShardedGradients

BASE = 4
CHANGES = ("replicas",)
NUMERICS = Numerics.ROUNDING


class ShardedParameters(ShardedGradients):
    """Parameters are gathered for the forward pass, and again for the backward pass."""

    RESHARD = True


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    times = run.sent.get("all_gather", 0) / max(1, run.memory["parameters"])
    if run.recipe.data > 1 and times < 1.05:  # 2 if all are gathered twice
        raise NotInEffect("parameters were gathered only once in a step")
    return f"{times:.1f} gathers"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, replicas=ShardedParameters)

"""5. ZeRO-3.

Changes: a block's parameters are dropped after its forward pass and gathered again for its backward
pass (reshard_after_forward).
Why: at no time does a process hold more whole parameters than those of a block or two, so models
can be trained that do not fit one device.
Cost: parameters travel twice, half as many bytes again as DDP sends. When not: if the weights fit.
Source: Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277.
"""

from dataclasses import replace

from common.ladder import NotInEffect
from common.recipe import Numerics
from ladders.parallel.layout import ParallelRun
from ladders.parallel.recipe import ParallelRecipe
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
    if run.recipe.data > 1 and times < 1.05:  # blocks twice, the embedding and the head once
        raise NotInEffect("parameters were gathered only once in a step")
    return f"{times:.1f} gathers"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, replicas=ShardedParameters)

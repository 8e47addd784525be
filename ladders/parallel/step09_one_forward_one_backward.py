"""9. 1F1B pipeline.

Changes: the backward pass of a micro-batch starts as soon as its forward pass is through the last
stage. From then on each stage alternates: one forward, one backward.
Why: a stage keeps the activations of at most p micro-batches (for p stages) instead of all m. The
memory saved allows more micro-batches, and so a smaller bubble.
Cost: for the same m the bubble is as large as GPipe's.
When not: with no more micro-batches than stages, where GPipe keeps no more. Interleaved schedules
have smaller bubbles.
Source: Narayanan et al. 2019, PipeDream, doi:10.1145/3341301.3359646; Narayanan et al. 2021,
arXiv:2006.09503 (PipeDream-Flush: all gradients before one update, as here).
"""

from dataclasses import replace

from torch.distributed.pipelining import Schedule1F1B

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
from ladders.parallel.step08_pipeline import GPipe

BASE = 8
CHANGES = ("pipeline",)
NUMERICS = Numerics.ROUNDING


class OneForwardOneBackward(GPipe):
    """Backward passes begin as soon as they can."""

    SCHEDULE = Schedule1F1B


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    if not isinstance(run.schedule, Schedule1F1B):
        raise NotInEffect(f"the schedule is {type(run.schedule).__name__}")
    return f"keeps {min(run.recipe.stages, run.recipe.micro_batches)} parts"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, pipeline=OneForwardOneBackward)

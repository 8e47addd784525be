"""9. 1F1B pipeline.

Changes: as soon as a micro-batch has left the pipeline its backward pass begins, and each stage
alternates: one forward, one backward.
Why: a stage keeps the activations of at most p micro-batches instead of all m; more and smaller
micro-batches become possible, and with them a smaller bubble.
Cost: the bubble is GPipe's for the same m. When not: never for GPipe's sake; interleaved and
zero-bubble schedules go further.
Source: Narayanan et al. 2019, PipeDream, doi:10.1145/3341301.3359646, the flushing form of 2021.
"""

from dataclasses import replace

from torch.distributed.pipelining import Schedule1F1B

from common.ladder import NotInEffect
from common.recipe import Numerics
from ladders.parallel.layout import ParallelRun
from ladders.parallel.recipe import ParallelRecipe
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

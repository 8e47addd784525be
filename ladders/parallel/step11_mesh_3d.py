"""11. 3D mesh.

Changes: the two-dimensional mesh twice, one after the other: two pipeline stages (rung 9).
Why: the largest models are trained so: products within a machine, stages across machines, and
replicas over all that is left.
Cost: a third kind of traffic, and the bubble. When not: below hundreds of devices.
Source: Narayanan et al. 2021, arXiv:2104.04473.
"""

from dataclasses import replace

from common.recipe import Numerics
from ladders.parallel.layout import ParallelRun
from ladders.parallel.recipe import ParallelRecipe
from ladders.parallel.step09_one_forward_one_backward import OneForwardOneBackward
from ladders.parallel.step09_one_forward_one_backward import in_effect as schedule_in_effect
from ladders.parallel.step10_mesh_2d import PAIR

BASE = 10
CHANGES = ("stages", "data", "pipeline")
NUMERICS = Numerics.ROUNDING
STAGES = 2


def applies(device, recipe: ParallelRecipe) -> str | None:
    least = 2 * PAIR * STAGES
    if recipe.devices < least or recipe.devices % (PAIR * STAGES):
        return f"three axes want 8, 12, 16, ... processes; there are {recipe.devices}"
    return None


def in_effect(run: ParallelRun) -> str:
    schedule_in_effect(run)
    return " x ".join(str(size) for size in run.mesh.shape)


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    data = recipe.devices // (PAIR * STAGES)
    return replace(recipe, stages=STAGES, data=data, pipeline=OneForwardOneBackward)

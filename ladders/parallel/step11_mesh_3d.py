"""11. 3D mesh.

Changes: the model is cut into two pipeline stages (rung 9), and each stage is a 2D mesh (rung 10).
Why: each kind of communication gets the links that it needs: tensor parallel within a machine,
stages between machines, replicas across the rest. The source ran a trillion parameters on 3,072
GPUs this way (its replicas were not sharded).
Cost: a third kind of communication, and the pipeline's bubble.
When not: while one or two kinds of parallelism still scale to all your devices.
Source: Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters,
arXiv:2104.04473.
"""

from dataclasses import replace

from common.engine.contract import Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
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

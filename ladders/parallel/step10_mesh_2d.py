"""10. 2D mesh.

Changes: the replicas that share out their parameters (rung 5) are pairs of processes, which share
every product (rung 7).
Why: tensor parallel stays where links are fast, in a machine, while sharded data parallel reaches
across machines; neither axis has to be as long as the job is large.
Cost: two kinds of traffic at once. When not: below the size at which one axis is too long.
Source: Narayanan et al. 2021, arXiv:2104.04473; torch's init_device_mesh.
"""

from dataclasses import replace

from common.ladder import NotInEffect
from common.recipe import Numerics
from ladders.parallel.layout import ParallelRun
from ladders.parallel.recipe import ParallelRecipe
from ladders.parallel.step07_tensor_parallel import TensorParallel

BASE = 5
CHANGES = ("tensor", "data", "products")
NUMERICS = Numerics.ROUNDING
PAIR = 2


def applies(device, recipe: ParallelRecipe) -> str | None:
    if recipe.devices < 4 or recipe.devices % PAIR:
        return f"a mesh of pairs wants 4, 6, 8, ... processes; there are {recipe.devices}"
    return None


def in_effect(run: ParallelRun) -> str:
    block = next(iter(run.inner.blocks.children()))
    axes = block.attention.W_query.weight.device_mesh.ndim
    if axes != 2:
        raise NotInEffect(f"the query projection is cut along {axes} axis")
    return f"{run.recipe.data} x {run.recipe.tensor}"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    data = recipe.devices // PAIR
    return replace(recipe, tensor=PAIR, data=data, products=TensorParallel)

"""10. 2D mesh.

Changes: tensor parallel and sharded data parallel together. Pairs of processes split every product
(rung 7). Each pair trains on its own windows, and the pairs shard the parameters (rung 5).
Why: tensor parallel stays within a machine, where links are fast; sharded data parallel reaches
across machines. With n pairs, 2 or n processes communicate at a time, not all 2 n.
Cost: both kinds of communication in every step.
When not: while one kind of parallelism still scales to all your devices.
Source: docs.pytorch.org/tutorials/intermediate/TP_tutorial.html; torch's init_device_mesh.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
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

"""10. torch.compile.

Changes: the model is compiled: as a whole, or its repeated block by itself. Both are tried.
Why faster: a chain of elementwise operations becomes one kernel that reads and writes memory once,
and Python no longer starts each operation. One block is compiled once for all of its repetitions.
Cost: the first step takes from seconds to minutes (its own column); new shapes compile again. Where
a graph breaks, its parts are compiled one by one: the lines are listed.
When not: for short runs, which do not earn the compilation back.
Source: Ansel et al. 2024, PyTorch 2, doi:10.1145/3620665.3640366; PyTorch, regional compilation.
Expected: 1.2 to 1.6 times on a GPU; from a loss to a small gain on a CPU.
"""

from dataclasses import replace

from common.accelerator.compiler import missing_compiler
from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import BLOCKS, WHOLE, OwnRecipe

CHANGES = ("compile",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    return missing_compiler(device)


def in_effect(run: Run) -> str:
    if run.graphs == 0:
        raise NotInEffect("nothing was compiled: does loss() call the model itself?")
    return f"{run.graphs} graph{'s' * (run.graphs > 1)}, {len(run.breaks)} breaks"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, compile=WHOLE)


def candidates(device, recipe: OwnRecipe) -> dict[str, OwnRecipe]:
    ways = (WHOLE, BLOCKS) if len(recipe.about.blocks) > 1 else (WHOLE,)
    return {way: replace(recipe, compile=way) for way in ways}


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    if recipe.compile == WHOLE:
        return ["model.compile()"]
    return [f"for block in ...:  # each {recipe.about.block}", "    block.compile()"]

"""5. int4 in groups.

Changes: 4-bit codes, from the least to the largest weight of each group of neighbours in a row:
each has a scale and an offset in bfloat16. Codes are the nearest (RTN). --group, --bits 2 and 3.
Why smaller: 5 bits a weight in groups of 32, 4.5 in groups of 64, where int8 takes 8.
Cost: 15 steps across a group: this is where loss begins to show. The kernel's packing cannot be
read back, so that a tied embedding has a second copy in memory.
When not: where the loss matters and a calibration text is at hand: rungs 8 and 9 choose better.
Source: Dettmers, Zettlemoyer 2022, arXiv:2212.09720 (groups); torch's int4mm_kernel.cpp.
Expected: a sixth of float32's bytes; LLaMA-7B's perplexity rose from 5.68 to 6.29 (GPTQ's paper).
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.integers import Int4
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from ladders.compress.step02_int8_per_tensor import products

CHANGES = ("format",)
NUMERICS = Numerics.LOWER_PRECISION
BASE = 1  # other bits and other groups than int8's


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    formats = {*run.told["formats"].values()}
    if formats != {Int4.named(run.recipe)}:
        raise NotInEffect(f"matrices are in {', '.join(sorted(formats))}")
    return f"groups of {run.recipe.group}, {products(run, 'int4')}"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=Int4)

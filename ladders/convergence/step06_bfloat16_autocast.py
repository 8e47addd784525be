"""6. bfloat16 autocast.

Changes: matrix products, and what torch.autocast lists with them, run in bfloat16; weights and
moments stay float32.
Why: products take less time, and the loss falls as before: fewer seconds, as many tokens.
Cost: 8 bits of precision in products; weights are converted at every forward pass.
When not: where a model is so small that the conversions take longer than what they save.
Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740; torch.autocast.
Expected: the same tokens. On a small model on a CPU no fewer seconds.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from steps import step05_bfloat16

CHANGES = ("autocast",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    return step05_bfloat16.applies(device, recipe)


def in_effect(run: Run) -> str:
    weights = {parameter.dtype for parameter in run.model.parameters()}
    products = ", ".join(sorted(run.counted.products))
    if products != "bfloat16" or weights != {torch.float32}:
        raise NotInEffect(f"products in {products}, weights in {', '.join(map(str, weights))}")
    return f"{products} products"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, autocast=torch.bfloat16)

"""7. bfloat16 autocast.

Changes: matrix products, and what torch.autocast lists with them, run in bfloat16. Weights and
moments stay float32. It stands on rung 5.
Why smaller: activations between products take 2 bytes. Norms and the loss stay float32, and while
a forward and backward pass lasts there is a bfloat16 copy of every weight: 2 bytes a parameter.
Cost: 8 bits of mantissa in products; the copies, which a small batch may not make up for.
When not: where weights are most of the memory. See rung 8, which stands beside this one.
Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740; torch.autocast.
Expected: at GPT-2's size nothing after rungs 3 to 5, which left mostly weights (2 % more, for the
copies), and 13 % without them.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from steps import step05_bfloat16

BASE = 5
CHANGES = ("autocast",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    return step05_bfloat16.applies(device, recipe)


def ran_in(run: Run, name: str) -> str:
    """The format of products; raises NotInEffect where it, or the weights', is not as meant."""
    weights = {parameter.dtype for parameter in run.model.parameters()}
    if run.counted.products != {name} or weights != {torch.float32}:
        found = ", ".join(sorted(run.counted.products))
        raise NotInEffect(f"products in {found}, weights in {', '.join(map(str, weights))}")
    return f"{name} products"


def in_effect(run: Run) -> str:
    return ran_in(run, "bfloat16")


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, autocast=torch.bfloat16)

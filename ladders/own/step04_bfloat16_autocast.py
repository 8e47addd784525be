"""4. bfloat16 autocast.

Changes: matrix products, and what torch.autocast lists with them, run in bfloat16 in the forward
pass and in its backward pass. Weights, gradients, and moments stay as they are.
Why faster: tensor cores multiply 16-bit numbers at twice the rate of TF32; CPUs with AMX or
avx512_bf16 multiply them faster than float32, too. Activations take half the bytes.
Cost: 8 bits of mantissa in products; each weight is converted in each step, which a small batch
may not earn back.
When not: if a loss or a custom operation needs more digits; it can be kept out of the context.
Source: docs.pytorch.org/docs/stable/amp.html; Micikevicius et al. 2018, arXiv:1710.03740 (idea).
Expected: 1.3 times on a CPU with avx512_bf16, 1.5 to 2 times on GPUs from Ampere on.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import AUTOCAST, OwnRecipe
from steps import step05_bfloat16

CHANGES = ("precision",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: OwnRecipe) -> str | None:
    if recipe.about.dtype != "float32":
        return f"the parameters are {recipe.about.dtype}"
    return step05_bfloat16.applies(device, recipe)


def in_effect(run: Run) -> str:
    """Of a compiled step the operators are not seen; there the rung below was."""
    if run.recipe.compile:
        return "around the graph"
    if "bfloat16" not in run.products:
        found = ", ".join(sorted(run.products)) or "unknown formats"
        raise NotInEffect(f"matrix products ran in {found}")
    return "bfloat16 products"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, precision=AUTOCAST)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [
        f'with torch.autocast("{device_type}", dtype=torch.bfloat16):',
        "    loss = ...  # the forward pass; backward() and the update stay outside",
    ]

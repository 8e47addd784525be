"""16. Product format.

Changes: weights and activations stay bfloat16; what a matrix product reads is made float32 first,
where products are faster so.
Why faster: bfloat16 halves what is moved, but not every processor multiplies it faster: a CPU with
AVX512-BF16 and no AMX makes bfloat16 products at half the speed of float32. The format that is
stored and the one that is multiplied in are two choices.
Cost: a float32 copy of each operand, for as long as it is needed; logits take twice the memory.
When not: where there are matrix units for 16 bits (AMX, tensor cores). The device decides: both are
measured.
Source: Intel, Instruction Set Extensions Programming Reference, VDPBF16PS and TDPBF16PS.
Expected: 1.3 times where float32 products are twice as fast; nothing elsewhere.
"""

from dataclasses import replace

import torch

from common.build import Run
from common.ladder import NotInEffect
from common.model import Linear
from common.recipe import Numerics, Recipe

CHANGES = ("linear",)
NUMERICS = Numerics.ROUNDING


class Float32Linear(Linear):
    """Multiplies in float32, whatever the format of weights and activations."""

    format = "float32"

    def operands(self, x: torch.Tensor, weight: torch.Tensor):
        return x.float(), weight.float()

    def multiply(self, x: torch.Tensor, weight: torch.Tensor, bias=None) -> torch.Tensor:
        product = super().multiply(x, weight, None if bias is None else bias.float())
        return product.to(x.dtype)


def applies(device, recipe: Recipe) -> str | None:
    if device.type != "cpu":
        return f"a {device.type} device multiplies 16 bits faster than 32"
    if recipe.dtype is not torch.bfloat16:
        return "products are float32 already"
    return None


def in_effect(run: Run) -> str:
    if run.recipe.linear is not Float32Linear:
        return "bfloat16"
    if not isinstance(run.inner.head, Float32Linear):
        raise NotInEffect(f"the head is {type(run.inner.head).__name__}")
    return "float32"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, linear=Float32Linear)


def candidates(recipe: Recipe) -> dict[str, Recipe]:
    return {"float32": apply(recipe), "bfloat16": recipe}

"""5. Product format.

Changes: weights and activations stay bfloat16; the operands of matrix products are converted to
float32 first, where that is faster.
Why faster: bfloat16 halves the bytes moved, but not every CPU multiplies it faster. Both CPUs
measured have AVX512-BF16 and no AMX. An Intel Xeon (Emerald Rapids) reached 0.26 to 0.33 TFLOP/s in
float32 and 0.15 to 0.17 in bfloat16, an AMD EPYC (Zen 4) 0.18 to 0.20 and 0.39 to 0.42.
Cost: a float32 copy of each operand while it is needed; logits take twice the memory.
When not: where products of 16 bits are faster (that EPYC, AMX, tensor cores). Both are measured.
Source: Intel, Instruction Set Extensions Programming Reference, VDPBF16PS and TDPBF16PS (what the
instructions do); LOG.md and results/ (the rates).
Expected: 1.3 times where float32 products are twice as fast; nothing elsewhere.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import Linear
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

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
        return f"for CPUs that multiply bfloat16 slower than float32; this is {device.type}"
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


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {"float32": apply(recipe), "bfloat16": recipe}

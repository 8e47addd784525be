"""1. TF32 tensor cores.

Changes: float32 matrix products may round their inputs to TF32 (10 bits of mantissa, not 23).
Why faster: tensor cores multiply TF32, at up to eight times the rate of float32 units.
Cost: products are good to about three digits; sums and all else stay float32.
When not: where products are bfloat16 anyway, or a computation needs all digits of a product.
Source: docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html
Expected: up to twice the rate on NVIDIA GPUs from Ampere on, if float32 products take the time.
"""

from common.workloads.own.recipe import OwnRecipe
from steps import step02_tf32
from steps.step02_tf32 import CHANGES, NUMERICS, apply, in_effect

__all__ = ["CHANGES", "NUMERICS", "applies", "apply", "in_effect", "lines"]


def applies(device, recipe: OwnRecipe) -> str | None:
    if recipe.about.dtype != "float32":
        return f"the parameters are {recipe.about.dtype}"
    return step02_tf32.applies(device, recipe)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return ['torch.set_float32_matmul_precision("high")']

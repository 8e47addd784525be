"""2. TF32 tensor cores.

Changes: float32 matrix products may round their inputs to TF32 (10 bits of mantissa, not 23).
Why faster: tensor cores multiply TF32. On an A100 that is eight times the rate of ordinary float32
units (156 and 19.5 TFLOPS); other cards gain less, some nothing.
Cost: products are good to about three digits. Sums and everything else stay float32.
When not: once all products are bfloat16 (step 5), where it changes nothing. Only NVIDIA has TF32,
from compute capability 8.0 on.
Source: docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html; NVIDIA A100
datasheet (the rates); NVIDIA/cutlass discussion 390 (no gain on an RTX 3080).
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("matmul_precision",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    if device.vendor != "nvidia":
        return f"TF32 is tried on NVIDIA's GPUs only; this is {device.name}"
    if device.capability < (8, 0):
        return f"TF32 needs compute capability 8.0; {device.name} has {device.capability_text}"
    return None


def in_effect(run: Run) -> str:
    """1 + 2^-12 is 1 in TF32 and itself in float32, so one product tells which one ran."""
    ones = torch.full((512, 512), 1 + 2**-12, device=run.device)
    if (product := (ones @ ones)[0, 0].item()) != 512.0:
        raise NotInEffect(f"a float32 product kept its low bits ({product}): no TF32")
    return "TF32 products"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, matmul_precision="high")

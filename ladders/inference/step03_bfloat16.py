"""3. bfloat16.

Changes: weights, activations, keys, and values are bfloat16.
Why faster: one request's token reads every weight once and does little with each, so bytes are
time: half of them, half of it.
Cost: 7 bits of mantissa. Greedy text differs from float32's after some tokens, which is no error:
logits are compared at fixed tokens instead.
When not: on a device that emulates it.
Source: Kalamkar et al. 2019, arXiv:1905.12322; Pope et al. 2022, arXiv:2211.05102 (bytes are time).
Expected: up to 2 times.
"""

from dataclasses import replace

import torch

from common.accelerator.device import missing_bf16
from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run

CHANGES = ("dtype",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: GenerateRecipe) -> str | None:
    return missing_bf16(device)


def in_effect(run: Run) -> str:
    dtypes = {b.dtype for b in run.model.buffers() if b.is_floating_point()} | {run.cache.dtype}
    if dtypes != {torch.bfloat16}:
        raise NotInEffect(f"weights and cache are {', '.join(sorted(map(str, dtypes)))}")
    return "bfloat16"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, dtype=torch.bfloat16)

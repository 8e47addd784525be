"""1. bfloat16.

Changes: all weights, and activations, are bfloat16.
Why smaller: two bytes a number instead of four.
Cost: 7 bits of mantissa. A matrix that is the head and the embedding is there twice in a CPU's
memory: once as its product reads it, once for its rows.
When not: where speed counts and the device would emulate it; the file is half as large.
Source: Kalamkar et al. 2019, arXiv:1905.12322.
Expected: half the bytes, at no loss that can be told.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("dtype",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    dtypes = {t.dtype for t in run.compressed.tensors.values() if t.is_floating_point()}
    if not dtypes <= {torch.bfloat16, torch.float32} or run.model.dtype is not torch.bfloat16:
        raise NotInEffect(f"the file holds {', '.join(sorted(map(str, dtypes)))}")
    return "bfloat16"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, dtype=torch.bfloat16)

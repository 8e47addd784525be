"""7. Blockwise attention.

Changes: attention is worked out for 256 queries of 16 bits at a time, or 128 of 32, by torch's
batched products and its own softmax. The weights of a block are kept for the backward pass.
Why faster: torch's fused kernel for CPUs multiplies small tiles, and its backward pass makes the
weights once more. Large products reach more of what the processor can do, and a softmax kept is
not computed twice. A block looks only at keys that it may see, so most of the mask costs nothing.
Cost: a little over B H T T / 2 weights in each layer, where the fused kernel keeps none. Scores are
rounded to the activations' format before the softmax, as in attention written out.
When not: long contexts, where these weights fill the memory; on GPUs. Both ways are measured.
Source: Rabe, Staats 2021, Self-attention Does Not Need O(n^2) Memory, arXiv:2112.05682 (blocks).
Expected: attention in half its time, so 1.05 to 1.15 times.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.blockwise_attention import attend
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from ladders.beyond.step04_fused_qkv import FusedProjection

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING


def queries(dtype: torch.dtype) -> int:
    """In a block: as many as make 512 bytes of one key's scores."""
    return 512 // dtype.itemsize


class BlockwiseAttention(FusedProjection):
    """The same parameters, some queries at a time."""

    def attend(self, query, key, value) -> torch.Tensor:
        """Three (B, H, T, D) tensors to one."""
        return attend(query, key, value, queries(query.dtype))


def applies(device, recipe: Recipe) -> str | None:
    if device.type != "cpu":
        return f"GPUs have faster fused kernels; this is {device.type}"
    if recipe.attention is not FusedProjection:
        return "it builds on the fused QKV projection (rung 4)"
    if recipe.dropout:
        return f"it drops no weights ({recipe.dropout:g} asked for)"
    return None


def in_effect(run: Run) -> str:
    if run.recipe.attention is not BlockwiseAttention:
        return "the fused kernel"
    if "ladder::blockwise_attention" not in run.operators:
        raise NotInEffect("no attention ran in blocks")
    return f"{queries(run.recipe.dtype)} queries"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=BlockwiseAttention)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {f"{queries(recipe.dtype)} queries": apply(recipe), "the fused kernel": recipe}

"""4. Fused QKV.

Changes: query, key, and value come from one matrix product with the three weights side by side.
Why faster: one larger product uses a device better than three, and reads its input once.
Cost: the three weights are copied into one at every step, because parameters keep the names that
they have in other rungs.
When not: at widths at which one projection fills the device.
Source: openai/gpt-2, src/model.py (c_attn).
Expected: 1 to 3 %.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from steps import step07_flash_attention
from steps.step07_flash_attention import FlashAttention

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING


class FusedProjection(FlashAttention):
    """One product for query, key, and value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        weights = (self.W_query.weight, self.W_key.weight, self.W_value.weight)
        parts = self.W_query.multiply(x, torch.cat(weights)).chunk(3, dim=-1)
        context = self.attend(*map(self.split_heads, parts))
        return self.out_proj(context.transpose(1, 2).flatten(2))


def applies(device, recipe: Recipe) -> str | None:
    if recipe.attention is not FlashAttention:
        return "it builds on FlashAttention (step 7)"
    return None


def in_effect(run: Run) -> str:
    if not all(isinstance(block.attention, FusedProjection) for block in run.inner.blocks):
        raise NotInEffect("a block projects three times")
    return f"1 product, {step07_flash_attention.in_effect(run)}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=FusedProjection)

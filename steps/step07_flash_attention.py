"""7. FlashAttention.

Changes: how attention weights are computed: one fused kernel through PyTorch's
scaled_dot_product_attention.
Why faster: the kernel works through the (T, T) scores tile by tile in on-chip memory, so they
never reach device memory, and it skips the masked half.
Cost: on NVIDIA it wants 16-bit inputs (step 5); on CPUs it does not run with dropout. The attention
weights cannot be looked at.
Source: Dao 2023, FlashAttention-2, arXiv:2307.08691.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.build import Run
from common.ladder import NotInEffect
from common.model import CausalAttention
from common.recipe import Numerics, Recipe

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING
FUSED = {  # a part of the operator's name: what to call it
    "scaled_dot_product_cudnn": "cudnn",
    "scaled_dot_product_flash": "flash",
    "scaled_dot_product_efficient": "efficient",
    "scaled_dot_product_fused": "fused",
    "scaled_dot_product_attention_math_for_mps": "mps",
}


class FlashAttention(CausalAttention):
    """The same parameters under the same names; the mask is a flag of the kernel."""

    def attend(self, query, key, value) -> torch.Tensor:
        """Three (B, H, T, D) tensors to one, the scores never written out."""
        dropout = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)


def applies(device, recipe: Recipe) -> str | None:
    if device.type == "cpu" and recipe.dropout:
        return f"the fused CPU kernel does not run with dropout ({recipe.dropout:g})"
    if device.type == "cuda" and recipe.dtype not in (torch.float16, torch.bfloat16):
        return "the flash kernel wants 16-bit inputs (step 5)"
    return None


def in_effect(run: Run) -> str:
    ran = {
        name for part, name in FUSED.items() if any(part in operator for operator in run.operators)
    }
    if not ran:
        raise NotInEffect("no fused attention kernel ran: the unfused path was taken")
    return "+".join(sorted(ran))


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=FlashAttention)

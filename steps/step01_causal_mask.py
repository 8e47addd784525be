"""1. Causal mask on the fly.

Changes: the (T, T) mask is computed where it is used; the baseline stores a copy in every layer.
Why faster: it hardly is. It frees memory: one mask of T x T bytes per layer, 12 MiB in all for
GPT-2 at context 1024.
Cost: a few more operations per layer and step.
When not: if the mask is expensive to compute.
Source: rasbt/LLMs-from-scratch, ch05/10_llm-training-speed, optimization 1.
"""

from dataclasses import replace

import torch
from torch import nn

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("mask",)
NUMERICS = Numerics.EXACT


class MaskOnTheFly(nn.Module):
    """The same mask as StoredMask, with nothing stored."""

    def __init__(self, context: int) -> None:
        super().__init__()

    def forward(self, tokens: int, device: torch.device) -> torch.Tensor:
        """(T, T) bool, True where the key lies in the query's future."""
        return torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(diagonal=1)


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    stored = sum(buffer.nbytes for buffer in run.model.buffers())
    if stored:
        raise NotInEffect(f"the model still stores {stored:,} bytes of buffers")
    return "no mask stored"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, mask=MaskOnTheFly)

"""2. Preallocated cache.

Changes: keys and values are written into memory that was taken once, and attention reads a slice.
Why faster: nothing is copied for a new token but its own keys and values.
Cost: memory for the longest text that is allowed for, from the first token on. A write index must
be kept right: a new prompt begins at 0 again, and what is taken back is overwritten.
When not: if lengths are not known beforehand and memory is short: pages (vLLM) then waste less.
Source: pytorch-labs/gpt-fast, model.py (KVCache); Kwon et al. 2023, PagedAttention,
arXiv:2309.06180.
Expected: little at one request: the copies of rung 1 are a few per cent of the weights' bytes.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.caches import Cache
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run

CHANGES = ("cache",)
NUMERICS = Numerics.ROUNDING


class Preallocated(Cache):
    """Slots for all tokens, (L, B, H, capacity, D), of which the first `length` are filled."""

    def __init__(self, shape, dtype, requests, capacity, device) -> None:
        super().__init__(shape, dtype, requests, capacity, device)
        slots = (shape.layers, requests, shape.heads, capacity, shape.emb_dim // shape.heads)
        self.keys = torch.zeros(slots, dtype=dtype, device=device)
        self.values = torch.zeros(slots, dtype=dtype, device=device)

    def extend(self, layer: int, key, value, positions) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer], self.values[layer]  # (B, H, capacity, D)
        start, end = self.length - key.shape[2], self.length
        keys[:, :, start:end], values[:, :, start:end] = key, value
        return keys[:, :, :end], values[:, :, :end]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    copies = run.operators["aten::cat"]
    if not isinstance(run.cache, Preallocated) or copies >= run.new_tokens:
        raise NotInEffect(f"keys and values were copied {copies} times")
    return f"{run.cache.capacity} slots in place"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, cache=Preallocated)

"""1. KV cache.

Changes: the keys and values of all tokens so far are kept, and only the new token runs.
Why faster: causal attention never changes a token's keys and values when more tokens follow. Of T
tokens one runs instead of T, so the gain grows with the length of what stands before.
Cost: 2 L T C numbers a request, 9 MiB for GPT-2 124M at 256 tokens in bfloat16, more than the
weights at long contexts or many requests. Each token copies the whole cache to a longer one.
When not: if texts are scored once and nothing is generated.
Source: Shazeer 2019, Fast Transformer Decoding, arXiv:1911.02150; Pope et al. 2022,
arXiv:2211.05102.
Expected: 8 to 10 times at 256 tokens of 124M, less for small models.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.caches import Cache
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run

CHANGES = ("cache",)
NUMERICS = Numerics.ROUNDING


class Concatenated(Cache):
    """Keys and values of each layer, (B, H, t, D), which every token makes longer."""

    def __init__(self, shape, dtype, requests, capacity, device) -> None:
        super().__init__(shape, dtype, requests, capacity, device)
        empty = torch.empty(
            requests, shape.heads, 0, shape.emb_dim // shape.heads, dtype=dtype, device=device
        )
        self.kept = [(empty, empty)] * shape.layers

    def extend(self, layer: int, key, value, positions) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.kept[layer]
        self.kept[layer] = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        return self.kept[layer]

    def rollback(self, length: int) -> None:
        super().rollback(length)
        self.kept = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.kept]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in self.kept for tensor in pair)


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if set(run.rows) != {run.recipe.requests}:
        raise NotInEffect(f"up to {max(run.rows)} tokens ran for a new one")
    return "only the new token"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, cache=Concatenated)

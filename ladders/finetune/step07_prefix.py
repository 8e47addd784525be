"""7. Prefix keys and values.

Changes: each layer's attention sees 20 keys and values more, before the window's own. These are
trained, on the base. They start as the base's own of the text's first 20 tokens.
Why smaller: 2 L P C parameters: 368,640 for GPT-2, whatever its layers' sizes.
Cost: 20 keys more for each query, in every answer too. Attention needs a mask, since its queries
begin behind its keys. Nothing but where attention looks is changed.
When not: where the text needs the layers to compute something else. From random values training is
slow to begin.
Source: Li, Liang 2021, Prefix-Tuning, arXiv:2101.00190 (start from real words).
Expected: a loss between the base's and LoRA's.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.parts import PARTS, Adapted
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates
from common.workloads.generate.base import FastAttention

CHANGES = ("trains", "attention", "model", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
PREFIX = 20  # P, tokens
RATES = (1e-2, 3e-2, 1e-1)


class PrefixAttention(FastAttention):
    """Attention over prefix_key and prefix_value, (P, C) each, and the window before itself."""

    NEW = ("prefix_key", "prefix_value")

    def __init__(self, emb_dim: int, *others) -> None:
        super().__init__(emb_dim, *others)
        self.prefix_key = nn.Parameter(torch.zeros(PREFIX, emb_dim))
        self.prefix_value = nn.Parameter(torch.zeros(PREFIX, emb_dim))

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        """Take keys and values of x (1, P, C), and give what the base's attention makes of it."""
        self.prefix_key.copy_(self.W_key(x)[0])
        self.prefix_value.copy_(self.W_value(x)[0])
        parts = (self.split_heads(layer(x)) for layer in (self.W_query, self.W_key, self.W_value))
        return self.out_proj(super().attend(*parts).transpose(1, 2).flatten(2))

    def attend(self, query, key, value) -> torch.Tensor:
        batch, tokens = len(query), query.shape[2]
        before = (self.prefix_key, self.prefix_value)  # (P, C) -> (B, H, P, D)
        before = (self.split_heads(p[None]).expand(batch, -1, -1, -1) for p in before)
        key, value = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
        seen = torch.ones(tokens, PREFIX + tokens, dtype=torch.bool, device=query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen.tril(PREFIX))


class Prefixed(Adapted):
    """Its prefixes start as if the base had read P tokens, at positions of their own."""

    before = PREFIX

    def begin(self, generator: torch.Generator, ids: torch.Tensor) -> None:
        x = self.token_embedding(ids)[None] + self.position_embedding.weight[: len(ids)]
        for block in self.blocks:
            x = x + block.attention.begin(block.norm1(x))
            x = x + block.feed_forward(block.norm2(x))


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, PrefixAttention, run.shape.layers)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    own = {"attention": PrefixAttention, "model": Prefixed, "learning_rate": RATES[1]}
    return replace(recipe, trains=PARTS, **own)


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

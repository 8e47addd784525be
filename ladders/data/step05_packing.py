"""5. Packing.

Changes: a row holds as many documents as fit into the context, the best fit first. A mask keeps
each from the others, and positions begin again with each.
Why faster: hardly any token is padding.
Cost: the mask is one more tensor, (B, 1, T, T), which the causal kernel did without; lengths must
be known beforehand; and an update is of more documents than before, so that an epoch has fewer.
When not: if one document fills the context.
Source: Krell et al. 2021, Efficient sequence packing, arXiv:2107.02027; huggingface/trl issue 784
(documents that see each other).
Expected: under 1 % padding.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import GPT
from common.gpt.text import END_OF_TEXT
from common.workloads.batches.plans import Packed
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run
from steps.step07_flash_attention import FlashAttention

CHANGES = ("plan", "model", "attention")
NUMERICS = Numerics.DIFFERENT_WORK


class MaskedAttention(FlashAttention):
    """The model tells which tokens may see which: `allowed`, (B, 1, T, T) bool."""

    allowed: torch.Tensor

    def attend(self, query, key, value) -> torch.Tensor:
        dropout = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, self.allowed, dropout)


class DocumentGPT(GPT):
    """A GPT that tells documents in a row apart: each begins with <|endoftext|>."""

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        documents = (ids == END_OF_TEXT).cumsum(dim=1)  # (B, T): whose each token is
        places = torch.arange(ids.shape[1], device=ids.device)
        begins = torch.where(ids == END_OF_TEXT, places, 0).cummax(dim=1).values
        allowed = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
        x = self.token_embedding(ids) + self.position_embedding(places - begins)
        x = self.dropout(x)
        for block in self.blocks:
            block.attention.allowed = allowed
            x = block(x)
        return self.final_norm(x)


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    rows, documents = run.feed.last.inputs.shape[0], len(run.feed.last.documents)
    if not isinstance(run.inner, DocumentGPT) or documents <= rows:
        raise NotInEffect(f"{documents} documents in {rows} rows")
    return f"{documents} documents in {rows} rows"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, plan=Packed, model=DocumentGPT, attention=MaskedAttention)

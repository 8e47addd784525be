"""8. Prompt tuning.

Changes: before the window's embedded tokens stand 20 vectors, which are trained, on the base. They
start as the embeddings of the text's first 20 tokens.
Why smaller: P C parameters: 15,360 for GPT-2, a ten-thousandth. Nothing within the model changes.
Cost: each window is 20 tokens longer, in all layers and in every answer too. Gradients pass through
the whole model on their way to the first layer, so that an update is no cheaper than LoRA's.
When not: at this size: prompt tuning came up to full fine-tuning from billions of parameters on.
Source: Lester et al. 2021, The Power of Scale for Prompt Tuning, arXiv:2104.08691.
Expected: the least that is stored, and of all methods the least that is learnt.
"""

from dataclasses import replace

import torch
from torch import nn

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.parts import PARTS, Adapted
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates
from steps.step01_causal_mask import MaskOnTheFly

CHANGES = ("trains", "model", "mask", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
PROMPT = 20  # P, vectors
RATES = (1e-2, 3e-2, 1e-1)


class Prompted(Adapted):
    """A GPT that reads `prompt`, (P, C), before each window, whose positions begin at 0 as ever."""

    NEW = ("prompt",)
    before = PROMPT

    def __init__(self, shape, recipe, vocab_size: int) -> None:
        super().__init__(shape, recipe, vocab_size)
        self.prompt = nn.Parameter(torch.zeros(PROMPT, shape.emb_dim))

    def begin(self, generator: torch.Generator, ids: torch.Tensor) -> None:
        self.prompt.copy_(self.token_embedding(ids) + self.position_embedding.weight[: len(ids)])

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        x = self.dropout(torch.cat([self.prompt.expand(len(ids), -1, -1), x], dim=1))
        for block in self.blocks:  # (B, P + T, C)
            x = block(x)
        return self.final_norm(x[:, PROMPT:])


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, Prompted, 1)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    own = {"model": Prompted, "mask": MaskOnTheFly, "learning_rate": RATES[1]}  # P + T wide
    return replace(recipe, trains=PARTS, **own)


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

"""3. LoRA on query and value.

Changes: the projections to queries and values get a second path, of low rank: x A B, A with K x r
and B with r x N numbers, times alpha / r. Only A and B are trained; B starts at 0.
Why smaller: r (K + N) instead of K N numbers a layer: 294,912 of GPT-2's 124 million at r = 8.
Cost: two thin products beside each of these layers. What the feed-forward layers know stays as it
is: more rank does not make up for that.
When not: where the task is far from what the base was trained on: rung 4.
Source: Hu et al. 2021, LoRA, arXiv:2106.09685, of which this is the choice of layers.
Expected: at 0.2 % of the moments, a loss between the base's and rung 4's.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.parts import PARTS, Mergeable
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates

CHANGES = ("trains", "part", "targets", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
TARGETS = ("W_query", "W_value")
RATES = (1e-3, 3e-3, 1e-2)  # GPT-2's size wants the least, width 32 the most


class LoRA(Mergeable):
    """A linear layer, and beside it lora_B lora_A, of (N, r) and (r, K), times alpha / r."""

    NEW = ("lora_A", "lora_B")

    def __init__(self, linear: nn.Linear, recipe) -> None:
        super().__init__(linear, recipe)
        self.scale = recipe.alpha / recipe.rank
        self.lora_A = nn.Parameter(linear.weight.new_zeros(recipe.rank, self.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(self.out_features, recipe.rank))

    def begin(self, generator: torch.Generator) -> None:
        drawn = torch.rand(self.lora_A.shape, generator=generator) * 2 - 1
        self.lora_A.copy_(drawn / self.in_features**0.5)  # as nn.Linear's own, and peft's
        self.lora_B.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def merge_into(self, weight: torch.Tensor) -> None:
        torch.addmm(self.base_weight(), self.lora_B, self.lora_A, alpha=self.scale, out=weight)


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, LoRA, len(run.recipe.targets) * run.shape.layers)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, trains=PARTS, part=LoRA, targets=TARGETS, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

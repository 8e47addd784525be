"""2. Adapters.

Changes: behind attention and behind the feed-forward layer of each block stands a bottleneck: down
to a twelfth of the width, GELU, up again, beside a shortcut. Only these are trained, on the base.
Why smaller: 2 (2 C r + r + C) parameters a block: 2,379,264 for GPT-2 124M at r = 64.
Cost: two products more in a row for each block, in every answer too: they cannot be merged away.
When not: where answers must be as fast as the base's (rung 5). The up-projection starts at 0, so
that the first update begins from the base; from random values it would begin from noise.
Source: Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751.
Expected: near full fine-tuning, at 2 % of its gradients and moments.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.parts import PARTS, Part
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates

CHANGES = ("trains", "part", "targets", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
BEHIND = ("out_proj", "contract")  # the last layers of attention and of the feed-forward
NARROWING = 12  # 64 columns of 768
RATES = (3e-3, 1e-2, 3e-2)


class Adapter(Part):
    """A linear layer, and a bottleneck behind it."""

    NEW = ("down", "down_bias", "up", "up_bias")

    def __init__(self, linear: nn.Linear, recipe) -> None:
        super().__init__(linear, recipe)
        width, narrow = self.out_features, max(1, self.out_features // NARROWING)
        self.down = nn.Parameter(self.weight.new_zeros(narrow, width))
        self.down_bias = nn.Parameter(self.weight.new_zeros(narrow))
        self.up = nn.Parameter(self.weight.new_zeros(width, narrow))
        self.up_bias = nn.Parameter(self.weight.new_zeros(width))

    def begin(self, generator: torch.Generator) -> None:
        self.down.copy_(torch.randn(self.down.shape, generator=generator) / self.out_features**0.5)
        for parameter in (self.down_bias, self.up, self.up_bias):
            parameter.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        narrow = F.gelu(F.linear(x, self.down, self.down_bias), approximate="tanh")
        return x + F.linear(narrow, self.up, self.up_bias)


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, Adapter, 2 * run.shape.layers)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, trains=PARTS, part=Adapter, targets=BEHIND, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

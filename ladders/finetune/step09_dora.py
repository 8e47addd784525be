"""9. DoRA.

Changes: a weight matrix is taken apart into each output's length and its direction. LoRA changes
the directions; the lengths are trained as they are.
Why: full fine-tuning changes directions and lengths apart; LoRA changes them together.
Cost: N parameters more a layer, and the length of each output's weights at every pass: the whole
matrix is formed and read again, which a training on few tokens feels.
When not: where LoRA already comes up to full fine-tuning, which costs less.
Source: Liu et al. 2024, DoRA, arXiv:2402.09353, equation 5. Its section 4.3 leaves the lengths out
of the gradient, to save memory; here they are in it.
Expected: LoRA's loss or a little less, at two thirds of its speed.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates
from ladders.finetune.step03_lora_query_value import RATES, LoRA

CHANGES = ("part", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 4


class DoRA(LoRA):
    """LoRA on directions; lora_magnitude_vector (N,) are the outputs' lengths."""

    NEW = (*LoRA.NEW, "lora_magnitude_vector")

    def __init__(self, linear: nn.Linear, recipe) -> None:
        super().__init__(linear, recipe)
        self.lora_magnitude_vector = nn.Parameter(linear.weight.new_zeros(self.out_features))

    def begin(self, generator: torch.Generator) -> None:
        super().begin(generator)
        self.lora_magnitude_vector.copy_(self.lengths())

    def lengths(self) -> torch.Tensor:
        """Of the rows of W + alpha / r B A, (N,)."""
        return (self.base_weight() + self.scale * self.lora_B @ self.lora_A).norm(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = self.multiply(x, self.base_weight())
        turned = turned + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        turned = turned * (self.lora_magnitude_vector / self.lengths())
        return turned if self.bias is None else turned + self.bias

    def merge_into(self, weight: torch.Tensor) -> None:
        factors = self.lora_magnitude_vector / self.lengths()
        super().merge_into(weight)
        weight.mul_(factors[:, None])


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, DoRA, len(run.recipe.targets) * run.shape.layers)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, part=DoRA, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

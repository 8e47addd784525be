"""10. QLoRA.

Changes: the frozen matrices are kept in 4 bits, in groups of 32 with a scale and a zero each, and
are made whole again at every pass. LoRA beside them is trained in the model's own format.
Why smaller: 5 bits a weight instead of 32, of what is only read.
Cost: rounding, which the parts make up for in part; and dequantising in each pass, forward and
backward. What is adapted is the rounded base: its parts belong to no other.
When not: where the base fits as it is. The embeddings and the head stay as they are, and at this
size are most of the model.
Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314 (there in its own format, NF4).
Expected: rung 4's loss but for a few hundredths of a nat.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.contract import DoesNotApply, NotInEffect, Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates
from common.workloads.generate.linears import from_groups, in_groups
from ladders.finetune.step03_lora_query_value import RATES, LoRA

CHANGES = ("part", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 4
GROUP = 32


class QLoRA(LoRA):
    """LoRA beside a matrix in 4 bits: two codes in a byte, and each group's scale and zero."""

    def __init__(self, linear: nn.Linear, recipe) -> None:
        if linear.in_features % GROUP:
            raise DoesNotApply(f"{linear.in_features} inputs are not made of groups of {GROUP}")
        super().__init__(linear, recipe)
        codes, both = in_groups(linear.weight.detach().float(), GROUP, torch.bfloat16)
        del self.weight
        self.register_buffer("codes", (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8))
        self.register_buffer("both", both)

    def base_weight(self) -> torch.Tensor:
        codes = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(1)
        return from_groups(codes.to(torch.int32), self.both, self.lora_A.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        return self.multiply(x, self.base_weight(), self.bias) + beside


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    layers = len(run.recipe.targets) * run.shape.layers
    bits = {8 * (p.codes.nbytes + p.both.nbytes) / (2 * p.codes.numel())
            for p in run.model.modules() if isinstance(p, QLoRA)}  # fmt: skip
    if bits != {5.0}:
        raise NotInEffect(f"{sorted(bits)} bits a weight")
    return f"{counted_parts(run, QLoRA, layers)}, 5 bits a weight"


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, part=QLoRA, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

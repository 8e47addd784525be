"""14. Taylor scores.

Changes: heads and neurons are chosen by what the loss would lose: of dL = -g w + H w^2 / 2, for a
weight w set to 0, the first term, summed over all weights that read the head or neuron, as a
magnitude for each window of the calibration text.
Why smaller: no smaller than rung 13; whoever is taken out is missed less.
Cost: a backward pass over the calibration text. The first term says little at a minimum of the
loss, where g is 0, and nothing of heads that only together can be spared.
When not: without such a text.
Source: Molchanov et al. 2019, arXiv:1906.10771; Michel et al. 2019, arXiv:1905.10650.
Expected: less loss than by magnitude, and than at random, at equal bytes.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Magnitude
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from common.workloads.compress.training import model_of

CHANGES = ("scores",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 13


class Taylor(Magnitude):
    @staticmethod
    def scores(base):
        model, heads = model_of(base.state, base.shape), base.shape.heads
        found = [[torch.zeros(heads), torch.zeros(4 * base.shape.emb_dim)] for _ in model.blocks]
        for ids in base.calibration:
            model.zero_grad()
            F.cross_entropy(model(ids[None, :-1])[0], ids[1:]).backward()
            for block, (of_heads, of_neurons) in zip(model.blocks, found, strict=True):
                of_heads += change(block.attention.out_proj.weight, heads)
                of_neurons += change(block.feed_forward.contract.weight, len(of_neurons))
        return [tuple(pair) for pair in found]


@torch.no_grad()
def change(weight: torch.nn.Parameter, parts: int) -> torch.Tensor:
    """|sum of g w| over the columns of each part: (N, K) to (parts,)."""
    return (weight.grad * weight).unflatten(1, (parts, -1)).sum(dim=(0, 2)).abs()


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.scores is not Taylor:
        raise NotInEffect("they were chosen otherwise")
    return "scores by gradient"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, scores=Taylor)

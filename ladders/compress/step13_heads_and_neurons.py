"""13. Heads and neurons.

Changes: a quarter of each layer's attention heads and feed-forward neurons are taken out, those
with the smallest weights, and the model is rebuilt without them: smaller dense matrices.
Why smaller: 12 to 9 heads and 3,072 to 2,304 neurons leave 0.750 of the blocks; and any kernel is
faster for it.
Cost: whole heads lose more than as many weights chosen anywhere. Choosing at random, at the same
bytes, is the control.
When not: without training on, where loss matters: rounding costs far less for the bytes.
Source: Michel et al. 2019, arXiv:1905.10650 (heads); Li et al. 2016, arXiv:1608.08710 (magnitude).
Expected: GPT-2 124M to 0.829 of its weights, whose embedding stays; less loss than at random.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Magnitude, Unpruned
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("pruning",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
SHARE = 0.75  # that stays


class Random(Magnitude):
    """The control."""

    @staticmethod
    def scores(base):
        generator = torch.Generator().manual_seed(base.shape.layers)
        sizes = (base.shape.heads, 4 * base.shape.emb_dim)
        every = range(base.shape.layers)
        return [tuple(torch.rand(size, generator=generator) for size in sizes) for _ in every]


class Smaller(Unpruned):
    @staticmethod
    def kept(base, recipe):
        return [tuple(map(highest, scores)) for scores in recipe.scores.scores(base)]

    @staticmethod
    def controls(recipe):
        others = {"random heads and neurons": Random, "by magnitude": Magnitude}
        return {
            name: replace(recipe, scores=kind)
            for name, kind in others.items()
            if kind is not recipe.scores
        }


def highest(scores: torch.Tensor) -> torch.Tensor:
    """The numbers of the highest scores, SHARE of them and at least one, in order."""
    return scores.topk(max(1, int(SHARE * len(scores)))).indices.sort().values


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if "kept" not in run.told:
        raise NotInEffect("no head and no neuron was taken out")
    heads, neurons = run.told["kept"][0]
    rows = {len(block.expand.bias) for block in run.model.blocks}
    if run.model.heads != heads or rows != {neurons}:
        raise NotInEffect(f"{run.model.heads} heads and {sorted(rows)} neurons a layer")
    return f"{heads} heads and {neurons} neurons a layer"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, pruning=Smaller)

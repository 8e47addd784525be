"""9. AWQ.

Changes: columns that read large activations are multiplied by s = mean|x|^a before rounding, and
their inputs divided by it, which the norm before, or the values' rows, take up. a is searched from
0 to 1 for the least error of the outputs on the calibration text; 0 leaves a matrix as it is.
Why smaller: no smaller than rung 5; the weights that matter most are rounded most finely.
Cost: 20 roundings of each matrix to search a; the same text as rung 8, of which less is learnt: one
number for each channel.
When not: on a matrix behind GELU or a head that is the embedding, where nothing can take s up.
Source: Lin et al. 2023, AWQ, arXiv:2306.00978. Without its clipping of the largest weights.
Expected: as much as rung 8.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Unscaled
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("scaling",)
NUMERICS = Numerics.LOWER_PRECISION
BASE = 5
STEPS = 20  # of the search
KINDS = ("qkv", "out_proj", "expand")


class ActivationAware(Unscaled):
    @staticmethod
    def scaled(parts, inputs, recipe):
        for name in [name for name in parts.matrices if name.rpartition(".")[2] in KINDS]:
            tried = [by_power(inputs(name)().mean, n / STEPS) for n in range(STEPS)]
            weight, gram = parts.matrices[name], inputs(name)().gram
            parts = parts.scaled(name, min(tried, key=lambda s: cost(weight, s, gram, recipe)))
        return parts


def by_power(mean: torch.Tensor, power: float) -> torch.Tensor:
    """(K,), about 1: the geometric mean of its ends is."""
    s = mean.clamp(min=1e-4) ** power
    return s / (s.max() * s.min()).sqrt()


def cost(weight, s, gram, recipe) -> float:
    """The squared error of the outputs (N, K) by inputs of these second moments (K, K)."""
    grid, codes = recipe.rounding.choose(recipe.format, weight * s, recipe, None)
    apart = grid.values(codes) / s - weight
    return ((apart @ gram) * apart).sum().item()


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not run.told["scaled"]:
        raise NotInEffect("no matrix was scaled: a is 0 everywhere")
    return f"{run.told['scaled']} matrices scaled"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, scaling=ActivationAware)

"""7. SmoothQuant.

Changes: before rounding, the inputs of a matrix are divided by s, a number for each channel, and
its columns multiplied by it: s = max|x|^0.5 / max|w|^0.5. The norm before the matrix takes up the
division, so that nothing is computed more; in exact arithmetic the model is the same.
Why smaller: no smaller than rung 6; outliers move from activations, which share one scale, to
weights, which have one for each output.
Cost: the matrices behind no norm (the output projection, the second of the feed-forward) and a head
that is the embedding are left as they are.
When not: where no channel stands out: small models show few outliers (LLM.int8(): from 6.7 B on).
Source: Xiao et al. 2022, SmoothQuant, arXiv:2211.10438.
Expected: less loss than rung 6, most of all where that lost much.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Unscaled
from common.workloads.compress.parts import BEFORE
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("scaling",)
NUMERICS = Numerics.LOWER_PRECISION
ALPHA = 0.5  # the paper's, for OPT and BLOOM
LEAST = 1e-5  # of a channel's largest values: the paper's code has the same


class Smoothed(Unscaled):
    @staticmethod
    def scaled(parts, inputs, recipe):
        for name in [name for name in parts.matrices if name.rpartition(".")[2] in BEFORE]:
            activations = inputs(name)().largest.clamp(min=LEAST)  # (K,)
            weights = parts.matrices[name].abs().amax(dim=0).clamp(min=LEAST)
            parts = parts.scaled(name, activations**ALPHA / weights ** (1 - ALPHA))
        return parts


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not run.told["scaled"]:
        raise NotInEffect("no matrix was scaled")
    return f"{run.told['scaled']} matrices scaled"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, scaling=Smoothed)

"""3. int8 asymmetric.

Changes: the 256 integers reach from a matrix's least weight to its largest, and one of them, the
zero point, stands for 0: q = round(w / s) + z, w = s (q - z).
Why smaller: no fewer bytes; finer steps, where weights lie more on one side of 0.
Cost: a zero point for each scale, and its share in every product: s z times the sum of the
activations. With z real instead of whole, 0 would not be kept.
When not: for weights, which mostly lie evenly about 0; it is for activations after a ReLU or GELU.
Source: Jacob et al. 2018, arXiv:1712.05877, section 2.1.
Expected: nothing that can be told from rung 2.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.grids import Grid, even
from common.workloads.compress.integers import Int8
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from ladders.compress.step02_int8_per_tensor import products

CHANGES = ("format",)
NUMERICS = Numerics.LOWER_PRECISION


class Asymmetric(Int8):
    label = "int8 asymmetric"

    @classmethod
    def fit(cls, weight, recipe):
        least, most = weight.amin().clamp(max=0), weight.amax().clamp(min=0)  # 0 is among them
        scale = even(least, most, 256).reshape(1, 1)
        return Grid(scale, (-least / scale).round(), torch.zeros_like(scale), 0, 255)


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    centres = [t.tolist() for name, t in run.compressed.tensors.items() if name.endswith("centre")]
    if len(centres) != len(run.told["formats"]):
        raise NotInEffect(
            f"{len(centres)} of {len(run.told['formats'])} matrices have a zero point"
        )
    return products(run, "int8")


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=Asymmetric)

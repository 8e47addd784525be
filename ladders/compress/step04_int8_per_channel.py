"""4. int8, one scale a channel.

Changes: each output of a matrix (each token's row of the embedding) has a scale of its own.
Why smaller: 16 bits for every row of hundreds of weights more than rung 2, and the steps fit each
row's own largest weight.
Cost: those bits: 0.02 a weight at GPT-2's width.
When not: never instead of rung 2, where a kernel takes such scales, as torch's does.
Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.
Expected: at most 0.01 nats over float32.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.grids import symmetric
from common.workloads.compress.integers import Int8
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from ladders.compress.step02_int8_per_tensor import products

CHANGES = ("format",)
NUMERICS = Numerics.LOWER_PRECISION
BASE = 2  # symmetric


class PerChannel(Int8):
    label = "int8 per channel"

    @classmethod
    def fit(cls, weight, recipe):
        return symmetric(weight.abs().amax(dim=1, keepdim=True))


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    tensors = run.compressed.tensors
    scales = [name for name in tensors if name.endswith(".scale")]
    rows = [len(tensors[f"{name.removesuffix('scale')}codes"]) for name in scales]
    if [tensors[name].numel() for name in scales] != rows:
        raise NotInEffect("a matrix has fewer scales than outputs")
    return products(run, "int8")


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=PerChannel)

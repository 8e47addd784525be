"""6. int8 activations (W8A8).

Changes: what a matrix of a block reads is rounded to 8-bit integers, too, so that products are of
integers. One scale for each matrix's inputs, from the largest one on the calibration text. The head
keeps its activations.
Why smaller: no smaller; a prompt's products are bound by arithmetic, and a CPU with VNNI or a GPU
multiplies 8-bit integers at twice bfloat16's rate or more. Rung 4's kernel is for few rows.
Cost: larger inputs than calibration saw are cut; an outlier of one channel coarsens all others.
When not: for one token at a time, which is bound by bytes (rungs 4 and 5); on x86 without VNNI,
where oneDNN cuts large sums and torch's exact product is slower than float32's (LOG.md).
Source: Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339 (outliers); oneDNN's int8
products, torch._int_mm on GPUs.
Expected: prefill 1.5 times bfloat16's with VNNI.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Everything
from common.workloads.compress.integers import Int8Both
from common.workloads.compress.parts import EMBEDDING, HEAD
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from ladders.compress.step02_int8_per_tensor import products
from ladders.compress.step04_int8_per_channel import PerChannel

CHANGES = ("format", "choice")
NUMERICS = Numerics.LOWER_PRECISION
BASE = 4


class BothPerChannel(Int8Both):
    label = "int8 x int8"
    fit = PerChannel.fit


class BlocksOnly(Everything):
    """The embedding and the head as in rung 4."""

    @staticmethod
    def recipes(parts, recipe, base, settings, told):
        apart = dict.fromkeys({EMBEDDING, HEAD} & parts.matrices.keys(), PerChannel)
        return {
            name: replace(recipe, format=apart.get(name, recipe.format)) for name in parts.matrices
        }


def applies(device, recipe: CompressRecipe) -> str | None:
    if device.type == "cpu" or device.vendor == "nvidia":
        return None
    return "products of integers are tried on CPUs and NVIDIA GPUs only"


def in_effect(run: Run) -> str:
    scales = sum(name.endswith("input_scale") for name in run.compressed.tensors)
    if scales != 4 * len(run.model.blocks):
        raise NotInEffect(f"{scales} matrices have a scale for their inputs")
    return f"{scales} scales, {products(run, 'integer')}"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=BothPerChannel, choice=BlocksOnly)

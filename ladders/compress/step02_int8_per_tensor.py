"""2. int8, one scale a matrix.

Changes: every weight matrix is 8-bit integers from -127 to 127, and one scale for all of them. The
largest magnitude has the last integer, and zero stays zero (symmetric).
Why smaller: a byte a weight, where bfloat16 takes two and float32 four.
Cost: steps as wide as the largest weight of the matrix asks for: one outlier coarsens all others.
When not: on matrices whose rows differ in size, as embeddings do: a scale for each row (rung 4)
costs next to nothing.
Source: Jacob et al. 2018, arXiv:1712.05877, section 2.1; kernels: pytorch-labs/gpt-fast.
Expected: a quarter of float32's bytes, at 0.01 nats or less; decoding up to 1.5 times bfloat16's.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.grids import symmetric
from common.workloads.compress.integers import Int8
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run, kernel_calls

CHANGES = ("format",)
NUMERICS = Numerics.LOWER_PRECISION


class PerTensor(Int8):
    label = "int8 per tensor"

    @classmethod
    def fit(cls, weight, recipe):
        return symmetric(weight.abs().amax().reshape(1, 1))


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    scales = {t.numel() for name, t in run.compressed.tensors.items() if name.endswith("scale")}
    if scales != {1}:
        raise NotInEffect(f"matrices have {sorted(scales)} scales")
    return products(run, "int8")


def products(run: Run, what: str) -> str:
    """How many products the formats' kernels made for a token. Raises NotInEffect if too few."""
    called, due = kernel_calls(run)
    if called != due:
        raise NotInEffect(f"{called} of {due} products took the {what} kernel")
    return f"{due // run.new_tokens} products a token" if due else "dequantised: no kernel here"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=PerTensor)

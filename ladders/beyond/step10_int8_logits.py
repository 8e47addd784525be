"""10. int8 logits.

Changes: the product that computes the logits reads hidden states and weights in 8 bits, with a
scale for each token and each vocabulary entry. Its gradients and what is stored stay as they are.
Why faster: one VNNI instruction multiplies 64 pairs of 8-bit integers and sums them in 32 bits, one
of float32 multiplies 16 pairs (AVX-512). A third of the head's work is this product.
Cost: precision. Both operands are rounded to 127ths of the largest value in their row. Gradients
cannot be rounded this way: most values are far smaller than the largest and would become 0.
When not: if the loss must be bfloat16's to the last digit; on GPUs. Elsewhere both are measured.
Source: Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339 (scales for the rows of both operands;
its treatment of outliers is not used).
Expected: the product in a third of its time, so 1.1 times.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.int8_softmax import int8_softmax_in_place
from common.workloads.train.recipe import Recipe
from common.workloads.train.softmax_in_place import InPlaceLoss

CHANGES = ("objective",)
NUMERICS = Numerics.LOWER_PRECISION


class Int8Loss(InPlaceLoss):
    """The softmax in place, logits from 8 bits."""

    operator = staticmethod(int8_softmax_in_place)


def applies(device, recipe: Recipe) -> str | None:
    if device.type != "cpu":
        return f"written for the vector units of a CPU; this is {device.type}"
    if recipe.dtype is not torch.bfloat16:
        return "it builds on bfloat16 (step 5)"
    if not issubclass(recipe.objective, InPlaceLoss):
        return "it builds on the softmax in place (rung 6)"
    return None


def in_effect(run: Run) -> str:
    if run.recipe.objective is not Int8Loss:
        return "as before"
    if "aten::_int_mm" not in run.operators:
        raise NotInEffect("no 8-bit product ran")
    return "int8"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=Int8Loss)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {"as before": recipe, "int8": apply(recipe)}  # precision only for what can be measured

"""6. Softmax in place.

Changes: logits are whole again, in 16 bits. They are written over by e^(logit - top), which the
backward pass multiplies. What divides a row of them is multiplied into the (N, C) side.
Why faster: the softmax's gradient never exists beside the logits, so that memory is passed over
three times less; the weight's gradient comes from one product, where chunks add it up in float32,
and nothing multiplies it afterwards.
Cost: 100 KB per token in 16 bits, where chunks (rung 3) have only one chunk's.
When not: where logits do not fit beside the rest. Both ways are measured.
Source: Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009 (the gradient's shape).
Expected: 1.05 to 1.1 times on a CPU.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import LogitsLoss
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.softmax_in_place import InPlaceLoss

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: Recipe) -> str | None:
    return None if device.type == "cpu" else f"measured on CPUs only; this is {device.type}"


def in_effect(run: Run) -> str:
    if not issubclass(run.recipe.objective, InPlaceLoss):
        return "whole logits" if run.recipe.objective is LogitsLoss else "chunks"
    if not any(name.endswith("softmax_in_place") for name in run.operators):  # int8's as well
        raise NotInEffect("no softmax was made in place")
    return "in place"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=InPlaceLoss, loss_rows=0)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {"in place": apply(recipe), "as before": recipe}

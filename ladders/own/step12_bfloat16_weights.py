"""12. bfloat16 weights.

Changes: parameters, activations, gradients, and moments are bfloat16, instead of autocast's
products alone. It stands on rung 9, as all rungs from here on.
Why faster: half the bytes to move and to store, and no conversion of weights in each step.
Cost: 7 bits of mantissa. An update of less than 1/512 of its weight is always rounded away.
When not: for long trainings, where updates become small: keep autocast. Compare losses first.
Source: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322.
Expected: 1.2 times autocast where the optimizer and small layers take the time; half the memory.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import BFLOAT16, OwnRecipe
from ladders.own import step04_bfloat16_autocast

OVER = 9
CHANGES = ("precision",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: OwnRecipe) -> str | None:
    return step04_bfloat16_autocast.applies(device, recipe)


def in_effect(run: Run) -> str:
    dtypes = {parameter.dtype for parameter in run.model.parameters()}
    if dtypes != {torch.bfloat16}:
        raise NotInEffect(f"parameters are {', '.join(sorted(map(str, dtypes)))}")
    return "bfloat16"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, precision=BFLOAT16)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return ["model.to(torch.bfloat16)  # before the optimizer is made; no autocast"]

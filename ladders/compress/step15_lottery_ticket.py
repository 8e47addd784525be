"""15. Lottery ticket.

Changes: rung 12's zeros are known from the trained model; the weights go back to where they were
after a tenth of the training, and train again from there, the zeros staying zeros.
Why smaller: no smaller than rung 12; the weights that are left learn to do without the others.
Cost: the training once more. Whether it was these weights that won is told by the controls, which
train as long: as many zeros elsewhere (random), and these zeros under newly drawn weights.
When not: to save training: the zeros are known only after it.
Source: Frankle, Carbin 2018, arXiv:1803.03635; rewinding: Frankle et al. 2019, arXiv:1912.05671.
Expected: near the loss of the whole model; the controls behind.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.lottery import Ticket
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("training",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 12


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.training is not Ticket:
        raise NotInEffect("nothing was trained again")
    return f"{run.told['compress_s']:.0f} s of training"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, training=Ticket)

"""2. Cosine decay.

Changes: after its rise the learning rate falls along half a cosine to a tenth of its peak, by the
last update.
Why: a large rate goes far, and then bounces about a valley's floor; a small one settles on it.
Cost: the end must be known beforehand, and before it the loss is higher than at a constant rate:
a training that is stopped half-way has lost.
When not: if training has no planned end. A constant rate may decay at any time (Hu et al. 2024,
MiniCPM, arXiv:2404.06395).
Source: Loshchilov, Hutter 2017, SGDR, arXiv:1608.03983; nanoGPT for the floor.
Expected: a lower end, and hardly fewer tokens, since much of the fall comes at the end of the
schedule. After some hundred updates even that is little: most of them go far, few bounce.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.schedule import Cosine

CHANGES = ("schedule",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    schedule = run.rates.schedule
    end = schedule.factor(schedule.updates)
    if not end < 1:
        raise NotInEffect("the schedule ends at the peak")
    return f"down to {end:.0%} at update {schedule.updates}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, schedule=Cosine)

"""4. Larger batch.

Changes: four times as many windows in an update, in four parts whose gradients add up. It stands on
rung 2; the schedule counts updates, of which there are a quarter as many.
Why: the mean of more gradients points more exactly downhill, and allows a higher rate.
Cost: fewer updates from the same tokens. Below the critical batch, twice the windows save half the
updates; above it, they are wasted.
When not: while tokens or time are what is short, and the batch is not smaller than the gradient's
noise asks for.
Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, arXiv:1812.06162.
Expected: more tokens: so early in training the critical batch is small.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

BASE = 2
CHANGES = ("batch_size", "accumulation")
NUMERICS = Numerics.ROUNDING  # of the gradients of the same windows
TIMES = 4


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    windows, parts = len(run.batch[0]), run.counted.forwards
    if parts != TIMES or windows % parts:
        raise NotInEffect(f"{windows} windows in {parts} parts")
    return f"{windows} windows in {parts} parts"


def apply(recipe: Recipe) -> Recipe:
    return replace(
        recipe, batch_size=TIMES * recipe.batch_size, accumulation=TIMES * recipe.accumulation
    )

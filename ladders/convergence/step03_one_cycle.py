"""3. OneCycle.

Changes: in the cosine's place, a rise along half a cosine over 30 % of the schedule, and a fall
along another to nearly nothing. It stands on rung 2. Momentum stays as it is.
Why: the long rise allows a higher peak, and the deep fall settles further.
Cost: a third of the training below the peak, and an end at which nothing is learned any more.
When not: with torch's scheduler as it comes: it cycles beta1 between 0.85 and 0.95 as well
(`cycle_momentum=False` keeps the optimizer's).
Source: Smith, Topin 2018, Super-Convergence, arXiv:1708.07120; torch.optim.lr_scheduler.OneCycleLR.
Expected: about the cosine's tokens.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.schedule import OneCycle

BASE = 2
CHANGES = ("schedule", "warmup")
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    schedule, share = run.rates.schedule, run.optimizer.param_groups[0]["lr"] / run.rates.peaks[0]
    end = schedule.factor(schedule.updates)
    if not (share < 1 and end < 1e-3):
        raise NotInEffect(f"{share:.0%} of the rate at update {run.rates.done}, {end:.0%} at last")
    return f"{share:.0%} of the rate at update {run.rates.done}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, schedule=OneCycle, warmup=OneCycle.usual_warmup)

"""1. Linear warm-up.

Changes: the learning rate rises in a straight line over the first tenth of the schedule.
Why: AdamW's second moment is an average over few gradients at first, and its updates are as large
as they ever get; a rate that is good later may be too large then.
Cost: the first updates do less.
When not: where the best constant rate is small anyway, as in fine-tuning.
Source: Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677.
Expected: no fewer tokens at the foot's own rate; a higher rate becomes possible.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("warmup",)
NUMERICS = Numerics.EXACT  # of an update's gradients
SHARE = 0.1


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    share = run.optimizer.param_groups[0]["lr"] / run.rates.peaks[0]
    if not share < 1:
        raise NotInEffect(f"update {run.rates.done} has the whole learning rate")
    return f"{share:.0%} of the rate at update {run.rates.done}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, warmup=SHARE)

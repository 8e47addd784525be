"""7. Samples kept.

Changes: what a sample costs is paid in the first epoch, and what came of it stays in memory.
Why faster: from the second epoch on nothing is made again. Only where samples cost, as with
--starved: a graph of each document's tokens, and random walks through it.
Cost: memory for every sample, and the first epoch is as slow as ever.
When not: if samples are drawn anew each time (augmentation), if they do not fit, or in workers,
each of which would keep its own. The rungs above make samples each time, and stand on rung 5.
Source: functools.cache is the same idea; torch.utils.data, map-style datasets.
Expected: the time for making samples, which without workers is all waited for.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("keep_samples",)
NUMERICS = Numerics.EXACT
BASE = 5


def applies(device, recipe: FedRecipe) -> str | None:
    return None if recipe.sample.costs else "samples cost next to nothing here: --starved"


def in_effect(run: Run) -> str:
    kept = len(run.feed.loader.dataset.kept or ())
    if kept != len(run.feed.numbers):
        raise NotInEffect(f"{kept} of {len(run.feed.numbers)} samples are kept")
    return f"{kept} samples kept"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, keep_samples=True)

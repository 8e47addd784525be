"""10. Prefetch factor.

Changes: how many batches each worker makes ahead. 2 is torch's default; 8 is tried
beside it.
Why faster: a longer queue evens out batches that take unequally long to make.
Cost: memory for every batch that waits, pinned memory where that is on.
When not: if workers are too slow on average. No queue helps then, it only runs empty later.
Source: torch.utils.data.DataLoader, prefetch_factor.
Expected: nothing where batches cost alike.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("prefetch_factor",)
NUMERICS = Numerics.EXACT
FACTORS = (2, 8)


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.feed.loader.prefetch_factor != run.recipe.prefetch_factor:
        raise NotInEffect(f"{run.feed.loader.prefetch_factor} batches a worker are made ahead")
    return f"{run.feed.loader.prefetch_factor} ahead"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, prefetch_factor=FACTORS[0])


def candidates(device, recipe: FedRecipe) -> dict[str, FedRecipe]:
    return {f"{factor} ahead": replace(recipe, prefetch_factor=factor) for factor in FACTORS}

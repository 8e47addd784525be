"""16. Largest batch.

Changes: the batch is doubled until memory ends (on a CPU until a time limit: the note says which).
Why faster: more work for each kernel launch and for each update of the weights.
Cost: memory; fewer updates for the same samples, and a learning rate that must be found again.
When not: if the training needs more samples then to reach its loss: compare that, not the rate.
Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, arXiv:1812.06162.
Expected: a gain until the device is busy all the time, then none.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import LARGEST, OwnRecipe
from common.workloads.own.user_file import samples

OVER = 9
CHANGES = ("batch_size",)
NUMERICS = Numerics.DIFFERENT_WORK


def applies(device, recipe: OwnRecipe) -> str | None:
    if not recipe.about.obeys_size:
        return "batch() does not give the number of samples that it is asked for"
    return None


def in_effect(run: Run) -> str:
    if (size := samples(run.batch)) != run.recipe.batch_size:
        raise NotInEffect(f"{size} samples in a batch of {run.recipe.batch_size}")
    return f"batch {size}"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, batch_size=LARGEST)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [f"batch_size = {recipe.batch_size}"]

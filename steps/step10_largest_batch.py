"""10. Largest batch.

Changes: the batch is doubled until memory ends; the largest that trained is kept.
Why faster: larger products use a GPU better, and what a step costs once (launches, the optimizer)
is shared by more tokens.
Cost: memory, and other training: fewer updates per token, so the learning rate and the schedule
need another look. Compare losses by tokens seen, not by steps.
When not: if the device is busy already (the CPU measured gained nothing), or beyond the largest
useful batch, which the source predicts from the noise of the gradients.
Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, arXiv:1812.06162.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import LARGEST, Recipe

CHANGES = ("batch_size",)
NUMERICS = Numerics.DIFFERENT_WORK


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    inputs, _ = run.batch
    if len(inputs) != run.recipe.batch_size:
        raise NotInEffect(f"batches hold {len(inputs)} windows, not {run.recipe.batch_size}")
    return f"batch {len(inputs)}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, batch_size=LARGEST)

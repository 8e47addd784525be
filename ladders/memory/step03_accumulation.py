"""3. Gradient accumulation.

Changes: the batch is cut into 8 parts, one after the other, whose gradients add up to one update. A
part weighs as many tokens as it counts. Clipping and schedules work once an update.
Why smaller: activations and logits are those of one part.
Cost: smaller products, which may not fill a GPU; gradients wait from one part to the next.
When not: if the batch fits.
Source: huggingface/transformers issue 34191 (the mistake to average over parts of unequal length).
Expected: an eighth of activations and logits.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("accumulation",)
NUMERICS = Numerics.ROUNDING
PARTS = 8


def applies(device, recipe: Recipe) -> str | None:
    if recipe.batch_size % PARTS:
        return f"{PARTS} parts do not divide a batch of {recipe.batch_size} windows"
    return None


def in_effect(run: Run) -> str:
    if run.counted.forwards != PARTS:
        raise NotInEffect(f"{run.counted.forwards} forward passes in an update")
    return f"{run.counted.forwards} parts"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, accumulation=PARTS)

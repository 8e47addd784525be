"""15. Gradient accumulation.

Changes: a batch is worked on in halves, one after the other, whose gradients add up.
Why smaller: activations and logits of one half at a time.
Cost: kernels for half the work, twice as many: slower, the more so the smaller the batch.
When not: if a whole batch fits; where samples act on one another (BatchNorm, contrastive losses).
Source: docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
Expected: half of the activations; 0.8 to 1 times the rate.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

OVER = 9
CHANGES = ("accumulation",)
NUMERICS = Numerics.ROUNDING
PARTS = 2


def applies(device, recipe: OwnRecipe) -> str | None:
    if not recipe.about.obeys_size:
        return "batch() does not give the number of samples that it is asked for"
    if recipe.about.batch_norms:
        return "BatchNorm's statistics are of a whole batch: parts of it are other work"
    if recipe.batch_size % PARTS:
        return f"a batch of {recipe.batch_size} has no equal halves"
    return None


def in_effect(run: Run) -> str:
    if run.passes != PARTS:
        raise NotInEffect(f"loss() was called {run.passes} times in a step")
    return f"{PARTS} parts"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, accumulation=PARTS)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [
        "for part in parts:  # of a batch, equally long",
        "    (loss(model, part) / len(parts)).backward()",
        "optimizer.step()",
    ]

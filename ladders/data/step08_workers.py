"""8. Worker processes.

Changes: batches are made by processes of their own, ahead of the training. How many, is measured.
Why faster: while one batch is trained on, the next ones are made.
Cost: each worker is a process that takes a core and memory of its own, and what it makes is handed
over through shared memory. They start anew in every epoch.
When not: if training hardly waits for batches, or where no core is free: on a CPU they take from
the training what they give.
Source: docs.pytorch.org/docs/stable/data.html (multi-process data loading).
Expected: slower on CPUs, unless samples cost as much as training does (--starved).
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("workers",)
NUMERICS = Numerics.EXACT
BASE = 5


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not run.feed.loader.num_workers:
        raise NotInEffect("the process that trains makes its batches")
    return in_words(run.feed.loader.num_workers)


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, workers=recipe.most_workers)


def candidates(device, recipe: FedRecipe) -> dict[str, FedRecipe]:
    """Powers of two below the most that there may be, and that."""
    most = recipe.most_workers
    counts = [2**n for n in range(most.bit_length()) if 2**n < most] + [most]
    return {in_words(count): replace(recipe, workers=count) for count in counts}


def in_words(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"

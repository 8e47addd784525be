"""9. Persistent workers.

Changes: workers live on from one epoch to the next.
Why faster: starting a process, and whatever it has to load, is paid once.
Cost: their memory stays taken, and grows if they are forked: what training overwrites, its weights
first of all, stays with them as it was (216 MiB each at the `cpu` preset, where 10 are their own).
When not: with one epoch, where nothing is started twice.
Source: torch.utils.data.DataLoader, persistent_workers; pytorch/pytorch issue 62066 (batches are
still made ahead only within an epoch).
Expected: the start of the workers, tens of milliseconds an epoch where processes are forked,
seconds where each imports torch anew. It shows where epochs are short.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("persistent_workers",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not run.feed.loader.persistent_workers:
        raise NotInEffect("workers end with their epoch")
    return f"{run.feed.loader.num_workers} stay"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, persistent_workers=True)

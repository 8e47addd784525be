"""11. Pinned memory.

Changes: a thread of the loader copies batches to page-locked memory, from which they go to the
device without blocking the host.
Why faster: the GPU's copy engine reads pinned memory directly. Unlike at step 4 of the first
ladder, the thread that trains does not pin.
Cost: pinned memory cannot be swapped out.
When not: a CPU has no copy to speed up.
Source: docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
Expected: little for token ids, of which a batch has some KiB.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("pin_memory",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: FedRecipe) -> str | None:
    if device.type not in ("cuda", "xpu"):
        return f"pinned memory speeds copies to a discrete GPU; this device is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if not run.feed.last.inputs.is_pinned():
        raise NotInEffect("the loader's batches are not pinned")
    return "pinned batches"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, pin_memory=True)

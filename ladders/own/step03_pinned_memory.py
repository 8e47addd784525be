"""3. Pinned memory.

Changes: batches are made on the host, in page-locked (pinned) memory, and copied without blocking.
Why faster: the GPU's copy engine reads pinned memory directly, and the host queues work meanwhile.
Cost: pinning is a copy, too, here in the main thread. Pinned memory cannot be swapped out.
When not: where batch() makes its tensors on the device: then this adds a copy. A CPU has none.
Source: docs.pytorch.org/docs/stable/notes/cuda.html (use pinned memory buffers)
Expected: nothing for token ids, a few per cent for images.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe
from common.workloads.own.user_file import tensors
from steps import step04_pinned_memory

CHANGES = ("pin_memory",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: OwnRecipe) -> str | None:
    return step04_pinned_memory.applies(device, recipe)


def in_effect(run: Run) -> str:
    if not all(tensor.is_pinned() for tensor in tensors(run.batch)):
        raise NotInEffect("the batches are not pinned")
    return "pinned batches"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, pin_memory=True)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return ["loader = DataLoader(..., pin_memory=True)", "x = x.to(device, non_blocking=True)"]

"""4. Pinned memory.

Changes: batches lie in page-locked (pinned) host memory, and copies do not block the host.
Why faster: the GPU's copy engine reads pinned memory directly; other memory is first copied to a
pinned buffer. Without blocking, the host queues more work meanwhile. Each helps by itself.
Cost: pinning is a copy, too. This loader has no worker processes and pins in the main thread, which
takes much of the gain away. Pinned memory cannot be swapped out.
When not: for small batches. Token ids are 64 KiB a batch, targets as many, so expect little here;
images and audio gain more. A CPU has no copy to speed up.
Source: docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("pin_memory",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    if device.type not in ("cuda", "xpu"):
        return f"pinned memory speeds copies to a discrete GPU; this device is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if not all(tensor.is_pinned() for tensor in run.batch):
        raise NotInEffect("the loader's batches are not pinned")
    return "pinned batches"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, pin_memory=True)

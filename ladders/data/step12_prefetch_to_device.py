"""12. Prefetch onto the device.

Changes: the next batch is copied on a stream of its own while this one is trained on.
Why faster: the copy is over when the batch is needed.
Cost: one more batch on the device, and a second stream, which must be waited for: memory that is
given back while another stream still reads it is overwritten (record_stream is for that).
When not: for token ids expect little; without pinned memory (rung 11) the copy blocks the host.
Source: docs.pytorch.org/docs/stable/notes/cuda.html (streams, record_stream); karpathy/nanochat
issue 837 (a copy that overtook its buffer).
Expected: less than 1 % for token ids.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.feed import Direct, Fed
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("transfer",)
NUMERICS = Numerics.EXACT
COPIED = ("inputs", "targets")


class Ahead(Direct):
    """Each batch is on its way to the device while the one before it is used."""

    def __init__(self, batches, device: torch.device) -> None:
        super().__init__(batches, device)
        self.stream = torch.Stream(device)

    def __iter__(self) -> Iterator[Fed]:
        coming = None
        for batch in self.batches:
            after = self.begin(batch)
            if coming is not None:
                yield self.arrived(coming)
            coming = after
        if coming is not None:
            yield self.arrived(coming)

    def begin(self, batch: Fed) -> Fed:
        """Start the copy. torch hands out pinned memory again only when copies from it are done."""
        with self.stream:
            there = {k: getattr(batch, k).to(self.device, non_blocking=True) for k in COPIED}
        return batch._replace(**there)

    def arrived(self, batch: Fed) -> Fed:
        """Let whatever is asked of the device from here on wait for the copy."""
        current = torch.accelerator.current_stream(self.device)
        current.wait_stream(self.stream)
        for name in COPIED:
            getattr(batch, name).record_stream(current)
        return batch


def applies(device, recipe: FedRecipe) -> str | None:
    if device.type not in ("cuda", "xpu"):
        return f"there is no copy to a device of its own; this device is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if run.batch[0].device.type == "cpu":
        raise NotInEffect("batches are copied when they are needed")
    return "copied ahead"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, transfer=Ahead)

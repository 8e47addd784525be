"""12. Activations on the host.

Changes: what the forward pass keeps for the backward pass is copied to page-locked memory of the
host, and back when it is needed. Of checkpointed blocks that is their inputs.
Why smaller: the device holds them no more. The host does: its bytes are counted beside.
Cost: two copies over the bus, each of which the device waits for.
When not: on a CPU or an Apple GPU, whose memory is the host's. Where the bus is slow, recompute.
Source: torch.autograd.graph.save_on_cpu; Rhu et al. 2016, vDNN, arXiv:1602.08124.
Expected: one tensor of the model's width for each block.
"""

from dataclasses import replace

from torch.autograd.graph import save_on_cpu

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("kept",)
NUMERICS = Numerics.EXACT


class OnHost(save_on_cpu):
    """What the forward pass keeps lies on the host until it is needed."""

    def __init__(self) -> None:
        super().__init__(pin_memory=True)


def applies(device, recipe: Recipe) -> str | None:
    whose = {"cpu": "a CPU's", "mps": "an Apple GPU's"}.get(device.type)
    return f"{whose} memory is the host's" if whose else None


def in_effect(run: Run) -> str:
    inputs = sum(tensor.nbytes for tensor in run.batch)
    if run.counted.host <= inputs:
        raise NotInEffect(f"the host held {run.counted.host:,} bytes, no more than the batch")
    return f"{run.counted.host / 2**20:.1f} MiB on the host"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, kept=OnHost)

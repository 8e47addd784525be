"""1. Gradients freed.

Changes: after an update gradients are given back (set_to_none), not kept as zeros until the next.
Why smaller: a kept gradient takes 4 bytes a parameter while the forward pass and the loss need the
most. A freed one is made when its turn comes, when much of that is gone.
Cost: none; nothing is zeroed, nothing added to zeros.
When not: if something reads gradients between updates, or counts on their address (CUDA graphs).
Source: torch.optim.Optimizer.zero_grad (set_to_none; torch's default since 2.0).
Expected: up to 4 bytes a parameter.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("keep_gradients",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if kept := run.counted.before["gradient"]:
        raise NotInEffect(f"{kept:,} bytes of gradients were there when the forward pass began")
    return "none kept"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, keep_gradients=False)

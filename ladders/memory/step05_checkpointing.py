"""5. Checkpointing.

Changes: of a block's activations only the input is kept; the backward pass makes the rest again.
Why smaller: without dropout a block keeps 16 tensors of the model's width for each token; now 1,
and 16 of one block at a time.
Cost: every block's forward pass runs twice, up to a third more work.
When not: if activations fit, or are less than what is resident. Dropout must draw the same numbers
again, so the state of the generators is kept as well.
Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
Expected: at GPT-2's size 16 % after rungs 3 and 4, and 38 % without them.
"""

from dataclasses import replace

import torch
from torch.utils.checkpoint import checkpoint

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import Block
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("block",)
NUMERICS = Numerics.ROUNDING


class CheckpointedBlock(Block):
    """Runs its forward pass again when the backward pass needs what it made."""

    recomputed = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        return checkpoint(super().forward, x, use_reentrant=False)


def applies(device, recipe: Recipe) -> str | None:
    return None


def passes(run: Run) -> str:
    """How often each block's forward pass ran in a part. Raises NotInEffect if not twice."""
    once = run.shape.layers * run.counted.forwards
    if run.counted.blocks != 2 * once:
        raise NotInEffect(f"{run.counted.blocks} passes through blocks, where one each is {once}")
    return f"{run.counted.blocks} for {once}"


def in_effect(run: Run) -> str:
    return passes(run)


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, block=CheckpointedBlock)

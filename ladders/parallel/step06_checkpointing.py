"""6. Checkpointing.

Changes: of a block's activations only the input is kept; the backward pass recomputes the rest.
Why: the sharding of rungs 3 to 5 does not make activations smaller. Checkpointing leaves one tensor
for each block.
Cost: every block's forward pass runs twice, up to a third more work in a step.
When not: if the activations fit in memory.
Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
"""

from dataclasses import replace

import torch
from torch.utils.checkpoint import checkpoint

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import Block
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe

BASE = 5
CHANGES = ("block",)
NUMERICS = Numerics.ROUNDING


class CheckpointedBlock(Block):
    """Runs its forward pass again when the backward pass needs what it made."""

    recomputed = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        return checkpoint(super().forward, x, use_reentrant=False)


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    blocks = run.shape.layers
    fused = run.calls.get("aten::scaled_dot_product_attention", 0)
    forwards = fused or run.calls.get("aten::_softmax", 0)  # without step 7
    if forwards < 2 * blocks:
        raise NotInEffect(f"{forwards} forward passes through {blocks} blocks")
    return f"{forwards} for {blocks} blocks"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, block=CheckpointedBlock)

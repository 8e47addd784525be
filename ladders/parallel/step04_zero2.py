"""4. ZeRO-2.

Changes: gradients are sharded, too: each process receives the average of its own shard only
(FSDP2's fully_shard). Parameters are gathered in the forward pass and kept for the backward pass.
Why: gradients and optimizer state take one n-th of the memory; between steps, weights do, too.
Cost: within a step every process holds the whole weights. Reduce-scatter and all-gather send as
many bytes as DDP's all-reduce; gloo sends more, because it has no reduce-scatter.
When not: if DDP fits in memory; nothing else is gained.
Source: Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe, Replicas

BASE = 3
CHANGES = ("replicas", "optimizer")
NUMERICS = Numerics.ROUNDING


class ShardedGradients(Replicas):
    """Blocks gather their parameters before use; `RESHARD`: and drop them after the forward."""

    RESHARD = False

    @classmethod
    def wrap(cls, model: nn.Module, mesh) -> nn.Module:
        blocks = model.blocks.children()
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=cls.RESHARD)
        return fully_shard(model, mesh=mesh, reshard_after_forward=cls.RESHARD)


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    if not isinstance(run.model, FSDPModule):
        raise NotInEffect("the model is not sharded")
    held, whole = run.memory["gradients"], run.memory["whole_parameters"]
    if run.recipe.data > 1 and held > 0.9 * whole:
        raise NotInEffect("this process holds all gradients")
    return f"{held / whole:.0%} of gradients"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    # sharded parameters bring a plain AdamW's state to one n-th by themselves
    return replace(recipe, replicas=ShardedGradients, optimizer=torch.optim.AdamW)

"""8. GPipe pipeline.

Changes: each process holds some of the layers. Windows pass through them in micro-batches, first
all forward, then all backward.
Why: each process holds only its own layers' weights, gradients, and optimizer state. Only
activations and their gradients at the cuts are sent, few enough bytes for links between machines.
Cost: processes are idle while the pipeline fills and drains, (p - 1) / (m + p - 1) of the time for
p equal stages and m micro-batches. Stages are seldom equal: the last one holds the output layer.
The activations of all micro-batches are kept.
When not: with few micro-batches in a step.
Source: Huang et al. 2019, GPipe, arXiv:1811.06965; torch.distributed.pipelining.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe

BASE = 0
CHANGES = ("stages", "pipeline")
NUMERICS = Numerics.ROUNDING


class Stage(nn.Module):
    """Some of a GPT's layers under the names they have there; the ends hold embeddings and head."""

    def __init__(self, model: nn.Module, index: int, count: int) -> None:
        super().__init__()
        first, last = index == 0, index == count - 1
        each = len(model.blocks) // count
        own = range(index * each, (index + 1) * each)
        self.token_embedding = model.token_embedding if first else None
        self.position_embedding = model.position_embedding if first else None
        self.dropout = model.dropout
        self.blocks = nn.ModuleDict({str(number): model.blocks[number] for number in own})
        self.final_norm = model.final_norm if last else None
        self.head = model.head if last else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ids (B, T) to (B, T, C) in the first stage, on to (B, T, C), to logits in the last."""
        if self.token_embedding is not None:
            positions = torch.arange(x.shape[1], device=x.device)
            x = self.dropout(self.token_embedding(x) + self.position_embedding(positions))
        for block in self.blocks.values():
            x = block(x)
        return x if self.head is None else self.head(self.final_norm(x))


class GPipe:
    """All micro-batches forward, then all backward."""

    SCHEDULE = ScheduleGPipe

    @staticmethod
    def cut(model: nn.Module, index: int, count: int) -> Stage:
        return Stage(model, index, count)

    @staticmethod
    def stage(run: ParallelRun) -> PipelineStage:
        """This process's part, for torch's schedule."""
        axis = run.mesh["stages"]
        return PipelineStage(
            run.model, axis.get_local_rank(), axis.size(), run.device, group=axis.get_group()
        )


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    own = len(list(run.inner.blocks.children()))
    if own * run.recipe.stages != run.shape.layers:
        raise NotInEffect(f"this stage holds {own} of {run.shape.layers} layers")
    return f"{run.recipe.stages} stages, {run.recipe.micro_batches} parts"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, stages=recipe.devices, pipeline=GPipe)

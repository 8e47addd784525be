"""2. Gradient accumulation.

Changes: four batches between two updates. Each process adds up its gradients, and only with the
last batch are they averaged between processes (no_sync).
Why faster: a quarter of the bytes per token, and a quarter of the updates.
Cost: other training: fewer updates per token, as with a batch four times as large. The memory is
that of one batch.
When not: if the communication already overlaps with the backward pass entirely.
Source: Li et al. 2020, arXiv:2006.15704, section 3.2.4.
"""

from contextlib import nullcontext
from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.parallel.replicas import DataParallel

BASE = 1
CHANGES = ("accumulate", "replicas")
NUMERICS = Numerics.DIFFERENT_WORK
BATCHES = 4


class AccumulatingDataParallel(DataParallel):
    """Gradients are averaged with a step's last micro-batch."""

    @staticmethod
    def sync(model, last: bool):
        return nullcontext() if last else model.no_sync()


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    gradients = sum(p.numel() * p.element_size() for p in run.model.parameters())
    sent = run.sent.get("all_reduce", 0)
    if sent > 1.5 * gradients:
        raise NotInEffect(f"{sent / gradients:.1f} all-reduces of the gradients in one update")
    return f"1 average in {run.recipe.micro_batches}"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, accumulate=BATCHES, replicas=AccumulatingDataParallel)

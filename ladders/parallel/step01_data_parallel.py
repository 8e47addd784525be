"""1. DDP.

Changes: every process trains a whole copy of the model on windows of its own. Gradients are
averaged between processes while the backward pass still runs (DistributedDataParallel).
Why faster: n processes process n times the tokens in a step, and the averaging overlaps with the
backward pass as far as the network keeps up.
Cost: every process holds all weights, gradients, and optimizer state, and sends all gradients.
When not: if the model does not fit one device (rungs 3 to 11).
Source: Li et al. 2020, PyTorch Distributed, arXiv:2006.15704.
"""

from dataclasses import replace

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.ladder import NotInEffect
from common.recipe import Numerics
from ladders.parallel.layout import ParallelRun
from ladders.parallel.recipe import ParallelRecipe, Replicas

BASE = 0
CHANGES = ("data", "replicas")
NUMERICS = Numerics.ROUNDING


class DataParallel(Replicas):
    """Whole copies, gradients averaged in buckets as they become ready."""

    @staticmethod
    def wrap(model: nn.Module, mesh) -> nn.Module:
        # gradients live in the buckets: no second copy
        group = mesh.get_group()
        return DistributedDataParallel(model, process_group=group, gradient_as_bucket_view=True)


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    reduced = run.sent.get("all_reduce", 0) + run.sent.get("reduce_scatter", 0)
    if run.recipe.data > 1 and reduced < run.memory["gradients"]:
        raise NotInEffect(f"only {reduced:,} bytes were averaged")
    return f"{run.recipe.data} replicas"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, data=recipe.devices, replicas=DataParallel)

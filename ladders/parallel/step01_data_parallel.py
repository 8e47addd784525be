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

from common.engine.contract import Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.parallel.replicas import DataParallel, averaged

BASE = 0
CHANGES = ("data", "replicas")
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    return averaged(run)


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, data=recipe.devices, replicas=DataParallel)

"""11. DDP on all devices.

Changes: every device trains on windows of its own, as 02_opt_multi_gpu_ddp.py does: rung 1 of the
parallel ladder, on the top of this one.
Why faster: n devices process n times the tokens in a step.
Cost: gradients are averaged in every step. What does not overlap with the backward pass is lost
time; the efficiency says how much is kept. The batch of a step is n times as large.
When not: if the model does not fit one device (parallel ladder, rungs 3 to 11).
Source: Li et al. 2020, PyTorch Distributed, arXiv:2006.15704.
"""

from common.engine.contract import Numerics
from common.workloads.train.recipe import Recipe

# What several processes need is imported where it is used: torch's parts for it take over a second,
# and every command and every measuring process imports this module.

CHANGES = ("data", "replicas")
NUMERICS = Numerics.DIFFERENT_WORK


def applies(device, recipe: Recipe) -> str | None:
    return None if recipe.devices > 1 else "there is one device"


def in_effect(run) -> str:
    from common.workloads.parallel.replicas import averaged

    return averaged(run)


def apply(recipe: Recipe) -> Recipe:
    from common.workloads.parallel.recipe import ParallelRecipe
    from common.workloads.parallel.replicas import DataParallel

    return ParallelRecipe.of(recipe, data=recipe.devices, replicas=DataParallel)

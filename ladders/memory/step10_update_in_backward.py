"""10. Update in backward.

Changes: each parameter is updated as soon as its gradient is there, and the gradient is freed. On
rung 8 without the parts of rung 3, which it excludes: what is gone cannot be added up.
Why smaller: gradients exist one at a time, not all together.
Cost: as many small updates as parameters. Activations are the whole batch's again.
When not: with accumulation, with clipping, whose norm is that of all gradients, or with a scaler,
which skips all updates or none. Not where activations of a batch take more than gradients do.
Source: Lv et al. 2023, LOMO, arXiv:2306.09782; PyTorch tutorial on optimizer step in backward.
Expected: nearly 2 bytes a parameter, 4 in float32, less what the whole batch's activations take.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.update import InBackward, excluded

BASE = 8
CHANGES = ("in_backward", "accumulation")
NUMERICS = Numerics.ROUNDING  # bit for bit the same, but for the parts that are no more


def applies(device, recipe: Recipe) -> str | None:
    return excluded(apply(recipe))


def in_effect(run: Run) -> str:
    if not isinstance(run.optimizer, InBackward):
        raise NotInEffect(f"the optimizer is {type(run.optimizer).__name__}")
    share = run.counted.gradients / sum(p.nbytes for p in run.model.parameters())
    if share == 1:
        raise NotInEffect("all gradients were there at a time")
    return f"{share:.0%} of them at a time"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, in_backward=True, accumulation=1)

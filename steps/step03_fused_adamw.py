"""3. Fused AdamW.

Changes: one kernel does all of AdamW's arithmetic, for many parameters at once.
Why faster: parameters, gradients, and moments pass through memory once a step. Otherwise each of
AdamW's dozen operations reads and writes them again.
Cost: none known. The gain shrinks as the batch grows: an update costs the same at any batch.
When not: if the update itself must be differentiated, or a parameter is complex. torch refuses.
Source: docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html (fused)
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("fused_optimizer",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if "aten::_fused_adamw_" not in run.operators:
        raise NotInEffect("no fused AdamW kernel ran")
    return "_fused_adamw_"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, fused_optimizer=True)

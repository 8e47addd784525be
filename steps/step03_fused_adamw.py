"""3. Fused AdamW.

Changes: the optimizer updates all parameters in one kernel.
Why faster: every parameter, gradient, and moment is read and written once a step; otherwise each
of AdamW's dozen operations passes over them again.
Cost: none to speak of. The gain shrinks as the batch grows: an update costs the same at any batch.
Source: docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html (fused)
"""

from dataclasses import replace

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

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

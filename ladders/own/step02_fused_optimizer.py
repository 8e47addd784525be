"""2. Fused optimizer.

Changes: how your optimizer computes: in one kernel (fused), or operation by operation over all
parameters at once (for-each). Both are tried. On GPUs for-each is what it does by itself.
Why faster: parameters, gradients, and moments pass through memory once a step, and few kernels are
started. Otherwise each of a dozen operations reads and writes them again.
Cost: none known for fused; for-each needs temporaries as large as the gradients.
When not: if the update itself must be differentiated. Optimizers that are not torch's have neither.
Source: docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html (fused, foreach)
Expected: 1.4 times on a CPU where the batch is small; less the larger it is. 1.02 times on an H200.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import FOREACH, FUSED, OwnRecipe

CHANGES = ("optimizer",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    if not recipe.about.has_fused:
        return f"{recipe.about.optimizer} has no fused form in torch"
    return None


def in_effect(run: Run) -> str:
    kernels = [name for name in run.operators if name.startswith(f"aten::_{run.recipe.optimizer}_")]
    if not kernels:
        raise NotInEffect(f"no {run.recipe.optimizer} kernel ran in the update")
    return run.recipe.optimizer


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, optimizer=FUSED)


def candidates(device, recipe: OwnRecipe) -> dict[str, OwnRecipe]:
    """On accelerators for-each is what the rung below does."""
    if device.type != "cpu":
        return {}
    return {how: replace(recipe, optimizer=how) for how in (FUSED, FOREACH)}


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [f"optimizer = torch.optim.{recipe.about.optimizer}(..., {recipe.optimizer}=True)"]

"""14. Checkpointing of blocks.

Changes: of the activations of each repeated block only its input is kept; the backward pass makes
the rest again.
Why smaller: what all blocks keep for the backward pass becomes what one of them keeps at a time.
Cost: every block's forward pass runs twice, up to a third more work.
When not: if activations fit, or are less than weights and moments.
Source: Chen et al. 2016, arXiv:1604.06174; torch.utils.checkpoint.
Expected: a third to two thirds of the activations; three quarters of the rate.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

OVER = 9
CHANGES = ("checkpoint",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    if len(recipe.about.blocks) < 2:
        return "no block repeats in the model"
    return None


def in_effect(run: Run) -> str:
    once = len(run.recipe.about.blocks) * run.passes
    if run.blocks != 2 * once:
        raise NotInEffect(f"{run.blocks} passes through blocks, where one each is {once}")
    return f"{run.blocks} for {once}"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, checkpoint=True)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [
        f"for block in ...:  # each {recipe.about.block}",
        "    block.forward = partial(checkpoint, block.forward, use_reentrant=False)",
        "# or, of Hugging Face's: model.gradient_checkpointing_enable()",
    ]

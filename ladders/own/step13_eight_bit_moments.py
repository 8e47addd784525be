"""13. 8-bit moments.

Changes: AdamW's two moments take a byte an element, and 4 bytes for the scale of each 256.
Why smaller: 2.03 bytes a parameter, where float32 moments take 8.
Cost: they are taken apart and put together in every update; 8 bits of them. Watch the loss.
When not: if activations are what does not fit; with another optimizer than AdamW.
Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861.
Expected: 6 bytes a parameter less, and a slower update.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import EIGHT_BIT, OwnRecipe
from common.workloads.train.tensor_memory import states

OVER = 9
CHANGES = ("optimizer",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: OwnRecipe) -> str | None:
    if recipe.about.optimizer != "AdamW":
        return f"it is written for AdamW; the model trains with {recipe.about.optimizer}"
    if recipe.channels_last:
        return "it is written for weights that lie as usual; rung 5 applies"
    return None


def in_effect(run: Run) -> str:
    kept = sum(parameter.numel() for parameter in run.optimizer.state)
    each = sum(state.nbytes for state in states(run.optimizer)) / kept
    if not 2 < each < 3:  # scales are of whole blocks, and weigh more in a small model
        raise NotInEffect(f"the optimizer keeps {each:.2f} bytes a parameter")
    return f"{each:.2f} bytes each"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, optimizer=EIGHT_BIT)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return ["from common.workloads.train.adamw8 import AdamW8  # this project's", "AdamW8(...)"]

"""11. 8-bit moments.

Changes: AdamW's two moments take a byte an element, and 4 bytes for the scale of each 256.
Why smaller: 2.03 bytes a parameter, where bfloat16 moments take 4 and float32 ones 8.
Cost: they are taken apart and put together in every update; 8 bits of them. Look at the held-out
loss.
When not: if activations are what does not fit (bitsandbytes issue 22: "no difference seen").
Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861.
Expected: nearly 2 bytes a parameter here, 6 over float32 moments.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.adamw8 import AdamW8
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.tensor_memory import states

CHANGES = ("optimizer", "fused_optimizer")  # there is no fused kernel of it
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    each = sum(state.nbytes for state in states(run.optimizer)) / weights
    if not 2 < each < 3:  # scales are of whole blocks, and weigh more in a small model
        raise NotInEffect(f"the optimizer keeps {each:.2f} bytes a parameter")
    return f"{each:.2f} bytes each"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, optimizer=AdamW8, fused_optimizer=False)

"""7. Fused attention.

Changes: models that let their attention be chosen (`set_attn_implementation` of Hugging Face's
transformers) use PyTorch's scaled_dot_product_attention.
Why faster: a fused kernel works through the (T, T) scores tile by tile; they never reach memory.
Cost: the attention weights cannot be looked at, nor returned.
When not: where they are needed. Some masks and dropout on CPUs take the slow path all the same.
Source: Dao 2023, FlashAttention-2, arXiv:2307.08691; transformers, attention interface.
Expected: 1.2 to 2 times at long contexts; nothing at short ones.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING
FUSED = "sdpa"


def applies(device, recipe: OwnRecipe) -> str | None:
    if recipe.about.attention is None:
        return "no set_attn_implementation for it: call scaled_dot_product_attention in the model"
    if recipe.about.attention != "eager":
        return f"its attention is {recipe.about.attention or 'not named'} already"
    return None


def in_effect(run: Run) -> str:
    kernels = [name for name in run.operators if "scaled_dot_product" in name]
    if not kernels and not run.recipe.compile:
        raise NotInEffect("scaled_dot_product_attention was not called")
    return FUSED


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, attention=FUSED)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return ['model.set_attn_implementation("sdpa")']

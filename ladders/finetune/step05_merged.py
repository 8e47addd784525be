"""5. Merged.

Changes: after the training each layer's product is added to its weights: W + alpha / r B A. The
model that answers is the base's own, with other numbers.
Why faster: no thin products beside the layers. Training is not touched.
Cost: what must be stored for a text is the whole model again. Its parts are gone: to answer for
another text the base has to be loaded first, and a swap into merged weights is refused. The sum is
rounded to the weights' format, which in bfloat16 is coarser than the parts beside it (peft#1388).
When not: where one model answers for several texts (rungs 4 and 6).
Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1 (no additional latency).
Expected: answers as fast as the base's; the same loss, to rounding.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.finetune.build import Tuned
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import Merged, mergeable

CHANGES = ("serving",)
NUMERICS = Numerics.ROUNDING
BASE = 4


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    if not issubclass(run.recipe.serving, Merged) or not (parts := mergeable(run.model)):
        raise NotInEffect("nothing will be merged")
    return f"{len(parts)} layers will be merged"


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, serving=Merged)

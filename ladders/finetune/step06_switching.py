"""6. Switching between texts.

Changes: beside the merged weights the base's own are kept, and each text's A and B. For another
text each merged matrix is computed anew: W + alpha / r B A.
Why: one model answers for many texts at the base's speed, and stores little for each.
Cost: the adapted matrices twice in memory. A switch reads and writes them all: milliseconds, where
parts that stay beside the layers (rung 4) are swapped in a fraction of one.
When not: where texts change with every request: then parts beside the layers. Do not subtract what
was added, to save the copy: rounding would stay, and grow with each switch.
Source: Sheng et al. 2023, S-LoRA, arXiv:2311.03285 (one base, thousands of adapters).
Expected: under 100 ms for GPT-2 124M on a CPU; from one text to another and back no bit is lost.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.finetune.build import Tuned
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import MergedOverBase, mergeable

CHANGES = ("serving",)
NUMERICS = Numerics.EXACT
BASE = 5


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    if run.recipe.serving is not MergedOverBase:
        raise NotInEffect("the base's weights will not be kept")
    return f"{len(mergeable(run.model))} layers will be merged over the base's"


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, serving=MergedOverBase)

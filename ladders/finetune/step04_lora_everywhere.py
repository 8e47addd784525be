"""4. LoRA on all linear layers.

Changes: as rung 3, on every linear layer of the blocks: query, key, value, attention's output, and
both of the feed-forward. The head and the embeddings stay the base's.
Why smaller: 1,327,104 parameters of GPT-2 at r = 8, a hundredth of full fine-tuning's.
Cost: 12 thin products more in each block, of little work each, which a device starts one by one.
When not: where only one text is ever wanted, and memory for its gradients and moments is there.
Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 4 (all layers, or it falls short).
Expected: within 0.05 nats of full fine-tuning, at under 2 % of its moments, and 1.15 times as fast:
no gradient of any weight matrix is computed.
"""

from dataclasses import replace

from common.engine.contract import Numerics
from common.workloads.finetune.build import Tuned, counted_parts
from common.workloads.finetune.parts import EVERY_LINEAR, PARTS
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates
from ladders.finetune.step03_lora_query_value import RATES, LoRA

CHANGES = ("trains", "part", "targets", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    return counted_parts(run, LoRA, len(run.recipe.targets) * run.shape.layers)


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, trains=PARTS, part=LoRA, targets=EVERY_LINEAR, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

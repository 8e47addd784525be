"""1. Full fine-tuning.

Changes: all parameters of the base are trained.
Why: nothing limits what can be learnt. The rungs above are held against its loss and its cost.
Cost: a gradient and two moments for each parameter, 12 bytes of each in float32 beside its own 4;
a text's result is a whole model, and so is what must be stored for it.
When not: where memory is short, where many texts each want a model of their own, or where the base
must stay what it was: what it knew is overwritten.
Source: Howard, Ruder 2018, Universal Language Model Fine-tuning, arXiv:1801.06146.
Expected: the lowest loss, and the most forgotten of the base's own text.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.finetune.build import Tuned
from common.workloads.finetune.parts import EVERYTHING
from common.workloads.finetune.recipe import FinetuneRecipe, at_rates

CHANGES = ("trains", "learning_rate")
NUMERICS = Numerics.DIFFERENT_WORK
RATES = (3e-4, 1e-3, 3e-3)  # the base itself was trained at the middle one


def applies(device, recipe: FinetuneRecipe) -> str | None:
    return None


def in_effect(run: Tuned) -> str:
    still = [name for name, p in run.model.named_parameters() if not p.requires_grad]
    if still or run.unmoved():
        raise NotInEffect(f"{len(still)} parameters are frozen, {len(run.unmoved())} did not move")
    return f"{len(run.start)} parameters moved"


def apply(recipe: FinetuneRecipe) -> FinetuneRecipe:
    return replace(recipe, trains=EVERYTHING, learning_rate=RATES[1])


def candidates(device, recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    return at_rates(apply(recipe), *RATES)

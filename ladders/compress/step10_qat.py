"""10. Quantisation-aware (QAT).

Changes: the model trains on while each matrix is rounded to rung 5's codes in every forward pass.
Rounding has no slope; the straight-through estimator gives gradients to the weights as if it were
not there.
Why smaller: no smaller than rung 5; the weights settle where rounding hurts little.
Cost: a training. What it gains is to be held against a float32 model that trained as long, and
against that one's nearest codes: more training makes any model better.
When not: where rungs 8 and 9 are good enough, at seconds instead of hours.
Source: Bengio et al. 2013, arXiv:1308.3432 (straight-through); Jacob et al. 2018, arXiv:1712.05877.
Expected: less loss than rung 5 after as long a training, and more than float32.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import AsTrained
from common.workloads.compress.formats import Plain
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from common.workloads.compress.training import TUNING, model_of, state_of, to_stderr, train

CHANGES = ("training",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 5


class Longer(AsTrained):
    """The control: as many steps on the same windows, in float32."""

    @staticmethod
    def trained(base, recipe, settings):
        return go_on(base, settings, None)


class Rounded(AsTrained):
    @staticmethod
    def trained(base, recipe, settings):
        return go_on(base, settings, lambda weight: straight_through(weight, recipe))

    @staticmethod
    def controls(recipe):
        longer = replace(recipe, training=Longer)
        plain = replace(longer, format=Plain, dtype=torch.float32)
        return {"float32, trained as long": plain, "rounded after it": longer}


def straight_through(weight: torch.Tensor, recipe: CompressRecipe) -> torch.Tensor:
    """The weight (N, K) on its grid; its gradient goes to the weight itself."""
    with torch.no_grad():
        grid, codes = recipe.rounding.choose(recipe.format, weight, recipe, None)
        rounded = grid.values(codes)
    return rounded + (weight - weight.detach())  # to the last bit the rounded one


def go_on(base, settings, rounded) -> dict[str, torch.Tensor]:
    model = model_of(base.state, base.shape)
    say = to_stderr("training on")
    train(model, base.windows, settings.tune_steps, TUNING, rounded=rounded, say=say)
    return state_of(model)


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.training is not Rounded:
        raise NotInEffect("nothing was rounded while it trained")
    return f"{run.told['compress_s']:.0f} s of training and rounding"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, training=Rounded)

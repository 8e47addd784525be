"""15. Lottery ticket.

Changes: rung 12's zeros are known from the trained model; the weights go back to where they were
after a tenth of the training, and train again from there, the zeros staying zeros.
Why smaller: no smaller than rung 12; the weights that are left learn to do without the others.
Cost: the training once more. Whether it was these weights that won is told by the controls, which
train as long: as many zeros elsewhere (random), and these zeros under newly drawn weights.
When not: to save training: the zeros are known only after it.
Source: Frankle, Carbin 2018, arXiv:1803.03635; rewinding: Frankle et al. 2019, arXiv:1912.05671.
Expected: near the loss of the whole model; the controls behind.
"""

from dataclasses import replace

import torch

from common.engine.contract import DoesNotApply, NotInEffect, Numerics
from common.workloads.compress.choices import AsTrained
from common.workloads.compress.formats import largest
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from common.workloads.compress.training import (
    matrices,
    model_of,
    started,
    state_of,
    to_stderr,
    train,
)

CHANGES = ("training",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 12
EARLY, OTHER = 10, 7  # base.EARLY; a seed for the controls


class Ticket(AsTrained):
    @classmethod
    def trained(cls, base, recipe, settings):
        if base.early is None:
            raise DoesNotApply("there is nothing to rewind to: the weights were not trained here")
        model, done = cls.start(base, settings)
        masks = {k: cls.mask(largest(base.state[k], recipe.sparsity)) for k in matrices(model)}
        with torch.no_grad():
            for name, parameter in matrices(model).items():
                parameter.mul_(masks[name])
        say = to_stderr("training again")
        train(model, base.windows, settings.base_steps, done=done, masks=masks, say=say)
        return state_of(model)

    @staticmethod
    def start(base, settings):
        return model_of(base.early, base.shape), max(1, settings.base_steps // EARLY)

    @staticmethod
    def mask(mask: torch.Tensor) -> torch.Tensor:
        return mask

    @staticmethod
    def controls(recipe):
        both = {"zeros at random": Scattered, "these zeros, new weights": Redrawn}
        return {name: replace(recipe, training=kind) for name, kind in both.items()}


class Scattered(Ticket):
    @staticmethod
    def mask(mask):
        generator = torch.Generator().manual_seed(OTHER)
        order = torch.rand(mask.shape, generator=generator).argsort(dim=1)  # of each row's columns
        return mask.gather(1, order)


class Redrawn(Ticket):
    @staticmethod
    def start(base, settings):
        return started(base.shape, OTHER), 0


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.training is not Ticket:
        raise NotInEffect("nothing was trained again")
    return f"{run.told['compress_s']:.0f} s of training"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, training=Ticket)

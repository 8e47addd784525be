"""Lottery tickets, and what they are held against."""

from dataclasses import replace

import torch

from common.engine.contract import DoesNotApply
from common.workloads.compress.base import EARLY
from common.workloads.compress.choices import AsTrained
from common.workloads.compress.sparse import largest
from common.workloads.compress.training import (
    matrices,
    model_of,
    started,
    state_of,
    to_stderr,
    train,
)

OTHER = 7  # a seed for the controls


class Ticket(AsTrained):
    """The weights of early in the training, some of them zeros, trained again from there."""

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
    """A control: as many zeros in each row, elsewhere."""

    @staticmethod
    def mask(mask):
        generator = torch.Generator().manual_seed(OTHER)
        order = torch.rand(mask.shape, generator=generator).argsort(dim=1)  # of each row's columns
        return mask.gather(1, order)


class Redrawn(Ticket):
    """A control: the same zeros, and weights from another start."""

    @staticmethod
    def start(base, settings):
        return started(base.shape, OTHER), 0

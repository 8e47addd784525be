"""5. Channels last.

Changes: weights and batches of two-dimensional convolutions lie in memory as height, width,
channels. Their shapes and values stay as they are.
Why faster: convolution kernels read all channels of a place at once, as they lie. Otherwise the
library reorders them for its kernel and back, in each layer.
Cost: an operation that wants the usual order reorders the tensor, and those after it do, too.
When not: models without two-dimensional convolutions; layers that flatten images to tokens at once.
Source: docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html
Expected: 1.1 to 1.4 times for convolutional models, on tensor cores more; nothing for transformers.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

CHANGES = ("channels_last",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    return None if recipe.about.convolutions else "the model has no two-dimensional convolution"


def in_effect(run: Run) -> str:
    weights = [parameter for parameter in run.model.parameters() if parameter.ndim == 4]
    laid = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
    if not all(laid):
        raise NotInEffect(f"{laid.count(False)} convolutions keep the usual order")
    return f"{len(laid)} convolutions"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, channels_last=True)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [
        "model = model.to(memory_format=torch.channels_last)",
        "images = images.to(memory_format=torch.channels_last)",
    ]

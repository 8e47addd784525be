"""11. No dropout.

Changes: dropout is 0. This changes training itself, not only its speed.
Why faster: no random numbers are drawn and no masks kept. Attention kernels do less per score, and
kernels without dropout (FlashAttention 3 and 4) can be used.
Cost: regularisation. Compare the held-out loss (--validate) over the passes that you mean to train.
When not: for a small text that is read many times, unless something else regularises. A text that
is read once does not need dropout.
Source: Geiping, Goldstein 2023, Cramming, arXiv:2212.14034 (no dropout in one pass over the data).
Expected: 5 to 12 % on an H100.
"""

from dataclasses import replace

from torch import nn

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("dropout",)
NUMERICS = Numerics.DIFFERENT_WORK


def applies(device, recipe: Recipe) -> str | None:
    return None if recipe.dropout else "dropout is 0 already"


def in_effect(run: Run) -> str:
    if any(layer.p for layer in run.inner.modules() if isinstance(layer, nn.Dropout)):
        raise NotInEffect("a layer still drops")
    return "dropout 0"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, dropout=0.0)

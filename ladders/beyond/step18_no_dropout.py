"""18. No dropout.

Changes: dropout is 0. This changes training itself, not only its speed.
Why faster: no random numbers are drawn and no masks kept; attention kernels drop a branch for each
score, and those that know no dropout at all (FlashAttention 3 and 4) come into reach.
Cost: regularisation. Large models that see each token about once are trained without dropout; a
small text read many times needs it, or something in its place. Compare the held-out loss
(--validate) over as many passes as you mean to train.
Source: Geiping, Goldstein 2023, Cramming, arXiv:2212.14034 (no dropout in one pass over the data).
Expected: 5 to 12 % on an H100.
"""

from dataclasses import replace

from torch import nn

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

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

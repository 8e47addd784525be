"""13. Skipped layers.

Changes: the model guesses for itself, without some of its layers: the later half, or every other
one, are tried. One pass with all layers reads the guesses; those up to the first wrong one stand.
Why faster: a pass without half of the layers reads fewer weights, and often says the same.
Cost: no weights and no cache beside the model's own: a guess reads the keys and values of whole
passes, and the next one writes over what it left. But it still reads the head, a third of GPT-2
124M's weights for a token, so a guess costs two thirds of a token.
When not: for small models of large vocabularies; with weights that were not trained to end early,
which LayerSkip does.
Source: Zhang et al. 2023, Draft & Verify, arXiv:2309.08168; Elhoushi et al. 2024, LayerSkip,
arXiv:2404.16710.
Expected: nothing at GPT-2's size (LayerSkip: 2.2 times, Llama-7B trained for it).
"""

from dataclasses import replace

from torch import nn

from common.engine.contract import DoesNotApply, Numerics
from common.workloads.generate.model import Decoder
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.sampling import Guess
from common.workloads.generate.session import Run
from common.workloads.generate.speculation import (
    Draft,
    guessed_by,
    only_one,
    refuse_untrained,
    seen,
)

BASE = 5  # above weights in fewer bits, a pass of several tokens takes longer (LOG.md)
CHANGES = ("draft", "draft_tokens")
NUMERICS = Numerics.ROUNDING
GUESSES = 2  # for a pass: each costs more than half of one


class Shortened(Decoder):
    """Some of a model's layers, between its own embeddings and head."""

    def __init__(self, whole: Decoder, layers: slice) -> None:
        nn.Module.__init__(self)
        self.token_embedding = whole.token_embedding
        self.position_embedding = whole.position_embedding
        self.blocks = whole.blocks[layers]
        self.final_norm, self.head = whole.final_norm, whole.head
        self.one_by_one = self.logits


class EarlyExit(Draft):
    """The first half. It shares the model's cache, of preallocated slots."""

    def __init__(self, target) -> None:
        refuse_untrained(target)
        if target.shape.layers < 2:
            raise DoesNotApply("a model of one layer has none to skip")
        self.cache, self.model = target.cache, Shortened(target.model, self.layers(target.shape))

    @staticmethod
    def layers(shape) -> slice:
        return slice(max(1, shape.layers // 2))

    def guess(self, text, count, sampler) -> Guess:
        length = self.cache.length
        found = guessed_by(self.model, self.cache, text[length:], count, sampler)
        self.cache.rollback(length)
        return found


class EveryOther(EarlyExit):
    @staticmethod
    def layers(shape) -> slice:
        return slice(None, None, 2)


def applies(device, recipe: GenerateRecipe) -> str | None:
    return only_one(recipe)


def in_effect(run: Run) -> str:
    return seen(run, EarlyExit)


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, draft=EarlyExit, draft_tokens=GUESSES)


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    kinds = {"the first half": EarlyExit, "every other": EveryOther}
    return {label: replace(apply(recipe), draft=kind) for label, kind in kinds.items()}

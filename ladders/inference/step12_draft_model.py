"""12. Draft model.

Changes: a small model, trained on the same text, guesses the next tokens one after another. One
pass of the large one reads all guesses; those up to the first wrong one stand.
Why faster: the small one reads a tenth of the weights for a token, and most tokens are easy: one
pass of the large model then gives several.
Cost: the small model's weights and cache, and its own reading of the prompt. After every pass both
caches forget what was refused; if nothing was, the small one has still to read its own last guess.
When not: if its guesses are wrong too often for what they cost: E / (k c + v) says when (LOG.md);
with another vocabulary.
Source: Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.
Expected: 1.3 times, if it is right four times in five.
"""

from dataclasses import replace

from common.engine.contract import DoesNotApply, Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.sampling import Guess
from common.workloads.generate.session import Run, build
from common.workloads.generate.speculation import (
    Draft,
    guessed_by,
    only_one,
    read,
    refuse_untrained,
    seen,
)

BASE = 5  # above weights in fewer bits, a pass of several tokens takes longer (LOG.md)
CHANGES = ("draft", "draft_tokens")
NUMERICS = Numerics.ROUNDING
LENGTHS = (2, 4)  # guesses for a pass


class Smaller(Draft):
    """A model of its own with a cache of its own, in the large one's formats."""

    def __init__(self, target) -> None:
        refuse_untrained(target)
        if (found := target.smaller()) is None:
            raise DoesNotApply("weights of a file, and no draft that fits them: --draft FILE")
        shape, state = found
        device, capacity = target.cache.places.device, target.cache.capacity
        self.model, self.cache = build(target.recipe, shape, state, capacity, device)
        self.weight_bytes, self.cache_bytes = self.model.weight_bytes, self.cache.nbytes

    def begin(self, text) -> None:
        self.cache.rollback(0)
        read(self.model, self.cache, text)

    def guess(self, text, count, sampler) -> Guess:
        return guessed_by(self.model, self.cache, text[self.cache.length :], count, sampler)

    def keep(self, length) -> None:
        self.cache.rollback(min(length, self.cache.length))


def applies(device, recipe: GenerateRecipe) -> str | None:
    return only_one(recipe)


def in_effect(run: Run) -> str:
    return seen(run, Smaller)


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, draft=Smaller, draft_tokens=LENGTHS[0])


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    return {f"{k} guesses": replace(apply(recipe), draft_tokens=k) for k in LENGTHS}

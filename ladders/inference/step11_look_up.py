"""11. Look-up of earlier tokens.

Changes: what followed the last few tokens when they stood in the text before is guessed to follow
again. One pass reads all guesses; those up to the first wrong one stand.
Why faster: a pass of a few tokens reads the weights once, as a pass of one does. Where a text
repeats itself, as code, summaries, and answers that quote do, it gives several tokens.
Cost: a pass of several tokens takes longer than one, and where the guess is wrong that was for
nothing. Greedy text of a weak model runs in circles, which flatters a look-up.
When not: for text that does not repeat itself; for many requests, whose rows fill a pass already.
Source: Saxena 2023, Prompt Lookup Decoding, github.com/apoorvumang/prompt-lookup-decoding;
Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.
Expected: 1.5 times and more on text that repeats itself, elsewhere nothing.
"""

from dataclasses import replace

from common.engine.contract import Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.sampling import Guess
from common.workloads.generate.session import Run
from common.workloads.generate.speculation import Draft, only_one, refuse_untrained, seen

BASE = 5  # above weights in fewer bits, a pass of several tokens takes longer (LOG.md)
CHANGES = ("draft", "draft_tokens")
NUMERICS = Numerics.ROUNDING
LENGTHS = (2, 4, 8)  # guesses for a pass
LONGEST = 3  # tokens that are looked up


class LookUp(Draft):
    """Copies on from the place where the text's end stood last."""

    def __init__(self, target) -> None:
        refuse_untrained(target)

    def guess(self, text, count, sampler) -> Guess:
        if (place := behind_the_last(text)) is None:
            return Guess()
        copied = list(text)
        for offset in range(count):
            copied.append(copied[place + offset])  # it may copy what it has just written
        return Guess(copied[len(text) :], [None] * count)


def behind_the_last(text: list[int]) -> int | None:
    """Where the text went on when it last had its end before, the longest that it has had."""
    for size in range(min(LONGEST, len(text) - 1), 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                return end
    return None


def applies(device, recipe: GenerateRecipe) -> str | None:
    return only_one(recipe)


def in_effect(run: Run) -> str:
    return seen(run, LookUp)


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, draft=LookUp, draft_tokens=LENGTHS[0])


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    return {f"{k} guesses": replace(apply(recipe), draft_tokens=k) for k in LENGTHS}

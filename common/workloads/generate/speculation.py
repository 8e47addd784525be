"""Speculative decoding: a draft guesses some tokens, and the model reads all of them in one pass.

The model decides which guesses stand (sampling.py), so a draft changes how fast the text comes, and
not what it says.
Source: Leviathan, Kalman, Matias 2023, Fast Inference from Transformers via Speculative Decoding,
arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.
Shapes: k guesses, V vocabulary. One request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from common.engine.contract import DoesNotApply, NotInEffect
from common.gpt.shape import Shape
from common.workloads.generate.caches import Cache
from common.workloads.generate.model import Decoder, State
from common.workloads.generate.sampling import GREEDY, Guess, Sampler

REPEATS = 7  # of each pass whose cost is measured, the first of them not counted


# -- drafts --


@dataclass(frozen=True, kw_only=True)
class Target:
    """The model that a draft guesses for."""

    recipe: object  # a GenerateRecipe
    shape: Shape
    model: Decoder
    cache: Cache
    trained: bool
    smaller: Callable[[], tuple[Shape, State] | None]  # of a draft model; None: there is none


class Draft:
    """Guesses what the model will say, cheaply."""

    model: Decoder | None = None  # whose passes make the guesses, if any's
    weight_bytes = cache_bytes = 0  # that it holds beside the model's

    def __init__(self, target: Target) -> None:
        """Raises DoesNotApply where such a draft says nothing, or cannot be had."""

    def begin(self, text: list[int]) -> None:
        """A prompt is read, into the model's empty cache."""

    def guess(self, text: list[int], count: int, sampler: Sampler) -> Guess:
        """At most `count` tokens after the text."""
        raise NotImplementedError

    def keep(self, length: int) -> None:
        """Only the text's first `length` tokens stand; what was kept of later ones is forgotten."""


def refuse_untrained(target: Target) -> None:
    if not target.trained:
        raise DoesNotApply(
            "untrained weights say nothing of what is accepted: --weights FILE or --base-steps N"
        )


def only_one(recipe) -> str | None:
    """Why a recipe cannot have a draft, or None."""
    return "its guesses are for one request alone" if recipe.requests > 1 else None


def seen(run, kind: type[Draft]) -> str:
    """What a draft did in the profiled step of a Run. Raises NotInEffect if it did not guess."""
    guessed, accepted = (
        sum(getattr(one, name) for one in run.rounds) for name in ("guessed", "accepted")
    )
    passes = run.passes.count(run.model)
    if not isinstance(run.draft, kind) or len(run.rounds) != passes:
        raise NotInEffect(f"{passes} passes, of which a draft guessed for {len(run.rounds)}")
    if run.draft.model and run.passes.count(run.draft.model) != max(1, guessed):
        raise NotInEffect(f"{guessed} guesses of its model, by {len(run.passes) - passes} passes")
    return f"{accepted}/{guessed} right, {passes} passes for {run.new_tokens} tokens"


def read(model: Decoder, cache: Cache, ids: list[int], last: int = 1) -> torch.Tensor:
    """One request's new tokens, into the cache: logits of the last of them, (last, V)."""
    device = next(model.buffers()).device
    return model(torch.tensor([ids], device=device), cache, last=last)[0]


def guessed_by(model: Decoder, cache: Cache, ids: list[int], count: int, sampler: Sampler) -> Guess:
    """`count` tokens by a model, one after another, after `ids`, which are new to its cache.

    The last of them is not put into it.
    """
    guess = Guess()
    for _ in range(count):
        token, q = sampler.pick(read(model, cache, ids)[0])
        guess.tokens.append(token)
        guess.q.append(q)
        ids = [token]
    return guess


# -- decoding --


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of the model."""

    guessed: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Spoken:
    tokens: list[int]
    logits: torch.Tensor  # (V,), of the last of them
    rounds: list[Round]


@torch.no_grad()
def speculate(
    model: Decoder,
    cache: Cache,
    draft: Draft,
    text: list[int],
    count: int,
    most: int,
    sampler: Sampler = GREEDY,
) -> Spoken:
    """The `count` tokens that follow a text, of which all but the last token are in the cache.

    `most`: guesses for a pass. As `decode`, it leaves the last new token out of the cache.
    """
    text, begin, rounds = list(text), len(text), []
    while (left := begin + count - len(text)) > 0:
        room = min(most, left - 1)  # the pass itself adds a token
        guess = draft.guess(text, room, sampler) if room else Guess()
        ids = [text[-1], *guess.tokens]
        logits = read(model, cache, ids, last=len(ids))  # (k + 1, V)
        accepted, token = sampler.judge(logits, guess)
        text += [*guess.tokens[:accepted], token]
        cache.rollback(len(text) - 1)
        draft.keep(len(text) - 1)
        rounds.append(Round(len(guess.tokens), accepted))
    return Spoken(text[begin:], logits[accepted].clone(), rounds)


# -- what it costs, and what it should bring --


def acceptance(rounds: list[Round]) -> float | None:
    """The share of guesses that were right, of those that were judged: behind a refused one
    nothing is. None where nothing was guessed.
    """
    accepted = sum(one.accepted for one in rounds)
    refused = sum(one.accepted < one.guessed for one in rounds)
    return accepted / (accepted + refused) if accepted + refused else None


def expected_tokens(acceptance: float, guesses: int) -> float:
    """Tokens of a pass, E: (1 - a^(k + 1)) / (1 - a). Source: Leviathan et al., equation 1."""
    return sum(acceptance**accepted for accepted in range(guesses + 1))


def predicted(rounds: list[Round], guesses: int, draft_cost: float, verify_cost: float) -> float:
    """How many times as fast as without a draft: E / (k c + v) where something was guessed.

    c is a guess's cost and v that of reading all k + 1 tokens, in passes of a single token;
    Leviathan et al. have v = 1. A pass for which nothing was guessed is a token for its price.
    """
    a = acceptance(rounds)
    if a is None:
        return 1.0
    drafted = sum(one.guessed > 0 for one in rounds)
    blind = len(rounds[:-1]) - sum(one.guessed > 0 for one in rounds[:-1])  # the last had no room
    tokens = drafted * expected_tokens(a, guesses) + blind
    return tokens / (drafted * (guesses * draft_cost + verify_cost) + blind)


@torch.no_grad()
def costs(
    model: Decoder, cache: Cache, draft: Draft, text: list[int], guesses: int
) -> tuple[float, float]:
    """A guess, and the pass that reads so many of them, in passes of a single token.

    All but the text's last token are in the cache.
    """

    def reads(tokens: int) -> Callable[[], object]:
        return lambda: read(model, cache, text[-1:] * tokens, tokens).argmax(dim=-1).tolist()

    def seconds(action: Callable[[], object]) -> float:
        taken = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            action()  # ends on the host: its tokens are there
            taken.append(time.perf_counter() - begin)
            cache.rollback(len(text) - 1)
            draft.keep(len(text) - 1)
        return median(taken[1:])

    one, all_of_them = seconds(reads(1)), seconds(reads(guesses + 1))
    guessing = seconds(lambda: draft.guess(text, guesses, GREEDY))
    return guessing / guesses / one, all_of_them / one


@torch.no_grad()
def agreement(model: Decoder, cache: Cache, draft: Draft, text: list[int]) -> float | None:
    """The share of guesses that are the model's own choice, one at each place of a given text.

    Greedy text of a weak model runs in circles, where guessing is easy; a given text does not.
    None where nothing was guessed.
    """
    cache.rollback(0)
    read(model, cache, text[:1])
    draft.begin(text[:1])
    right = []
    for place in range(2, len(text) + 1):
        guess = draft.guess(text[:place], 1, GREEDY)
        chosen, _ = GREEDY.pick(read(model, cache, text[place - 1 : place])[0])
        right += [token == chosen for token in guess.tokens]
        draft.keep(place)
    return sum(right) / len(right) if right else None

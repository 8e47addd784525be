"""Speculative decoding: the text has the model's own distribution, whatever a draft guesses."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.cli import run as command
from common.engine.contract import Disturbed, DoesNotApply, NotEquivalent, NotInEffect, Numerics
from common.engine.errors import UserError
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.workloads.generate import base, session
from common.workloads.generate.draft_model import draft_weights, smaller
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import decode
from common.workloads.generate.sampling import (
    GREEDY,
    Greedy,
    Guess,
    Sampled,
    chance,
    residual,
    sampler_for,
)
from common.workloads.generate.session import build
from common.workloads.generate.settings import Settings
from common.workloads.generate.speculation import (
    Draft,
    Round,
    Target,
    acceptance,
    agreement,
    expected_tokens,
    guessed_by,
    predicted,
    read,
    speculate,
)
from common.workloads.train.build import seed_parameters
from ladders.inference.step02_preallocated_cache import Preallocated
from ladders.inference.step11_look_up import LookUp
from ladders.inference.step12_draft_model import Smaller
from ladders.inference.step13_skipped_layers import EarlyExit, EveryOther
from tests.test_inference import CPU, LADDER, NAIVE, checked, recipe_at, taken

DRAFTS = (LookUp, Smaller, EarlyExit, EveryOther)
RUNGS = {
    draft: n
    for n in range(1, LADDER.top + 1)
    for draft in DRAFTS[:3]
    if LADDER.rung(n).apply(NAIVE).draft is draft
}
P, Q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
TINY = Shape(layers=2, heads=2, emb_dim=32, context=32)
SMALL = Shape(layers=2, heads=2, emb_dim=32, context=48, vocab_size=7)
FLOAT32 = replace(NAIVE, cache=Preallocated)


# -- worked examples --


def emitted(p: torch.Tensor, q: torch.Tensor, instead: Callable) -> torch.Tensor:
    """What comes of one guess, (V,): it was accepted, or refused and replaced."""
    accepted = torch.tensor([q[x] * chance(p, q, x) if q[x] else 0.0 for x in range(len(p))])
    return accepted.double() + (1 - accepted.double().sum()) * instead(p, q)


def test_without_the_residual_the_distribution_is_another():
    """Worked example: (.35, .39, .26), a total variation of 0.15 from p."""
    assert emitted(P, Q, residual).tolist() == pytest.approx([0.5, 0.3, 0.2])
    wrong = emitted(P, Q, lambda p, q: p)
    assert wrong.tolist() == pytest.approx([0.35, 0.39, 0.26])
    assert (wrong - P).abs().sum() / 2 == pytest.approx(0.15)


@pytest.mark.parametrize("seed", range(20))
def test_accepted_and_replaced_sum_to_p(seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(9, generator=generator).double() ** 3 for _ in range(2))
    p[seed % 9] = 0  # as top-k leaves it
    q[(seed // 2) % 9] = 0
    p, q = p / p.sum(), q / q.sum()
    for guessing in (q, p, torch.eye(9).double()[seed % 9 - 1]):
        assert torch.allclose(emitted(p, guessing, residual), p, atol=1e-7)


def test_what_a_draft_should_bring():
    """A draft of 10 ms, a model of 100 ms, 3 guesses, all accepted: 4 tokens, one the model's own.

    Without that one it would be 43.3 ms a token, and 2.31 times.
    """
    always = [Round(3, 3)] * 5
    gain = predicted(always, 3, draft_cost=0.1, verify_cost=1.0)
    assert gain == pytest.approx(3.08, abs=0.005)
    assert gain * 3 / 4 == pytest.approx(2.31, abs=0.005)
    assert 100 / gain == pytest.approx(32.5)
    assert 100 / gain * 4 / 3 == pytest.approx(43.3, abs=0.05)
    assert expected_tokens(0.8, 3) == pytest.approx(2.952)
    often = [Round(3, 3), Round(3, 1)]  # four of five that were judged
    assert acceptance(often) == 0.8
    assert predicted(often, 3, 0.1, 1.5) == pytest.approx(2.952 / 1.8)


def test_passes_without_guesses_are_tokens_for_their_price():
    rounds = [Round(2, 2), Round(0, 0), Round(2, 0), Round(0, 0)]  # the last had no room
    assert acceptance(rounds) == pytest.approx(2 / 3)
    tokens = 1 + 2 / 3 + 4 / 9
    assert predicted(rounds, 2, 0.0, 1.2) == pytest.approx((2 * tokens + 1) / (2 * 1.2 + 1))
    assert acceptance([Round(0, 0)]) is None
    assert predicted([Round(0, 0)], 2, 0.1, 1.2) == 1.0


# -- every path of the algorithm --


class Chain(nn.Module):
    """Logits of the token after the last two: a model so small that all texts can be listed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("table", 2 * torch.randn(3, 3, 3, generator=generator))

    def forward(self, ids, cache, last=1):
        cache.ids += ids[0].tolist()
        pairs = list(zip([0, *cache.ids], cache.ids, strict=False))[-last:]
        return torch.stack([self.table[pair] for pair in pairs])[None]


class Ids:
    """A cache of ids alone."""

    def __init__(self, ids=()) -> None:
        self.ids = [*ids]

    def rollback(self, length: int) -> None:
        del self.ids[length:]


class Modelled(Draft):
    def __init__(self, model) -> None:
        self.model, self.cache = model, Ids()

    def guess(self, text, count, sampler) -> Guess:
        return guessed_by(self.model, self.cache, text[len(self.cache.ids) :], count, sampler)

    def keep(self, length) -> None:
        self.cache.rollback(length)


class Sure(Draft):
    """Certain of what it says."""

    def __init__(self, model) -> None:
        self.said = 0

    def guess(self, text, count, sampler) -> Guess:
        return Guess([(text[-1] + 1 + place) % 3 for place in range(count)], [None] * count)


class Enumerated(Sampled):
    """Chance goes where `path` says, and its probability is known."""

    def __init__(self, path: list[int], pending: list[list[int]]) -> None:
        super().__init__(temperature=0.7, top_k=2)
        self.path, self.pending, self.done, self.probability = path, pending, [], 1.0

    def choose(self, probabilities: list[float]) -> int:
        possible = [choice for choice, p in enumerate(probabilities) if p > 0]
        if len(self.done) < len(self.path):
            choice = self.path[len(self.done)]
        else:
            choice, *others = possible
            self.pending += [[*self.done, other] for other in others]
        self.done.append(choice)
        self.probability *= probabilities[choice]
        return choice

    def accepts(self, probability: float) -> bool:
        return self.choose([1 - probability, probability]) == 1

    def draw(self, p: torch.Tensor) -> int:
        return self.choose(p.tolist())


def every_text(
    draft: type[Draft], sampler: type[Enumerated] = Enumerated, cache: type[Ids] = Ids
) -> tuple[dict, dict]:
    """Probabilities of all texts of four tokens, as speculating has them and as the model has."""
    model, small, begun = Chain(1), Chain(2), [0, 1]
    found, pending = Counter(), [[]]
    while pending:
        chosen = sampler(pending.pop(), pending)
        spoken = speculate(model, cache(begun[:-1]), draft(small), begun, 4, 2, chosen)
        found[tuple(spoken.tokens)] += chosen.probability
    due, plain = Counter({(): 1.0}), Enumerated([], [])
    for _ in range(4):
        longer = Counter()
        for text, probability in due.items():
            pair = (*begun, *text)[-2:]
            p = plain.distribution(model.table[pair])
            longer.update({(*text, token): probability * p[token].item() for token in range(3)})
        due = longer
    return found, due


def apart(found: dict, due: dict) -> float:
    """Total variation."""
    return sum(abs(found.get(text, 0) - due.get(text, 0)) for text in {*found, *due}) / 2


class ForgetsItsPlace(Modelled):
    """Never rolls its own cache back: bad guesses, whose q is told rightly."""

    def guess(self, text, count, sampler) -> Guess:
        return guessed_by(self.model, self.cache, text[-1:], count, sampler)

    def keep(self, length) -> None:
        pass


@pytest.mark.parametrize("draft", (Modelled, Sure, ForgetsItsPlace))
def test_texts_have_the_models_own_distribution(draft):
    found, due = every_text(draft)
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    assert apart(found, due) < 1e-6


class AcceptsAll(Enumerated):
    def accepts(self, probability):
        return True


class TellsRawQ(Enumerated):
    """The draft's distribution before temperature and top-k (transformers issue 47932)."""

    def pick(self, logits):
        return super().pick(logits)[0], torch.softmax(logits, dim=-1)


class Keeps(Ids):
    """What was refused stays in the cache."""

    def rollback(self, length):
        pass


def test_planted_faults_change_the_distribution(monkeypatch):
    assert apart(*every_text(Modelled, AcceptsAll)) > 0.05
    assert apart(*every_text(Modelled, TellsRawQ)) > 0.01
    assert apart(*every_text(Modelled, cache=Keeps)) > 0.05
    monkeypatch.setattr("common.workloads.generate.sampling.residual", lambda p, q: p)
    assert apart(*every_text(Modelled)) > 0.05


# -- a real model --


def state_of(shape: Shape, scale: float = 1.0) -> dict:
    """Untrained; scaled so that logits are as far apart as those of a trained one."""
    model = GPT(shape, base.RECIPE, shape.vocab_size)
    seed_parameters(model, shape)
    state = model.state_dict()
    return state | {"head.weight": scale * state["head.weight"]}


def target(shape: Shape = SMALL, scale: float = 1.0, recipe=FLOAT32, **changes) -> Target:
    model, cache = build(recipe, shape, state_of(shape, scale), shape.context, CPU)
    little = smaller(shape)
    values = {"trained": True, "smaller": lambda: (little, state_of(little, scale))} | changes
    return Target(recipe=recipe, shape=shape, model=model, cache=cache, **values)


def begin(aim: Target, draft: Draft, text: list[int]) -> None:
    """The prompt: all but the last token of the text."""
    aim.cache.rollback(0)
    read(aim.model, aim.cache, text[:-1])
    draft.begin(text[:-1])


def far_from(counts: Counter, due: dict[tuple, float], samples: int) -> float:
    """Chi-square in standard deviations (Wilson and Hilferty 1931); rare texts are one class."""
    classes = [text for text, p in due.items() if p * samples >= 5]
    pairs = [(counts[text], due[text] * samples) for text in classes]
    rest = samples - sum(count for count, _ in pairs), samples - sum(mean for _, mean in pairs)
    pairs += [rest] * (rest[1] > 1)
    freedom = len(pairs) - 1
    chi = sum((count - mean) ** 2 / mean for count, mean in pairs)
    if rest[1] <= 1 and rest[0] > 20:
        return math.inf
    return ((chi / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))


def drawn(draft: type[Draft], samples: int) -> float:
    """How far samples of three tokens are from the model's own distribution."""
    aim, text = target(scale=4), [0, 1, 2, 3, 0, 1, 2]
    sampler = Sampled(0.8, 4, torch.Generator().manual_seed(5))
    due = Counter({(): 1.0})
    with torch.no_grad():
        for _ in range(3):
            longer = Counter()
            for more, probability in due.items():
                aim.cache.rollback(0)
                p = sampler.distribution(read(aim.model, aim.cache, [*text, *more])[0])
                ids = p.nonzero().flatten().tolist()
                longer.update({(*more, token): probability * p[token].item() for token in ids})
            due = longer
        guessing = draft(aim)
        begin(aim, guessing, text)
        counts = Counter()
        for _ in range(samples):
            spoken = speculate(aim.model, aim.cache, guessing, text, 3, 2, sampler)
            counts[tuple(spoken.tokens)] += 1
            aim.cache.rollback(len(text) - 1)
            guessing.keep(len(text) - 1)
    return far_from(counts, due, samples)


@pytest.mark.parametrize("draft", (LookUp, Smaller, EarlyExit))
def test_samples_are_of_the_models_own_distribution(draft):
    assert drawn(draft, 1000) < 3.5


def test_samples_without_the_residual_are_not(monkeypatch):
    monkeypatch.setattr("common.workloads.generate.sampling.residual", lambda p, q: p)
    assert drawn(Smaller, 1000) > 5


class Wavering(Draft):
    """Knows the text, and is wrong at every third token."""

    def __init__(self, text: list[int]) -> None:
        self.text = text

    def guess(self, text, count, sampler) -> Guess:
        tokens = self.text[len(text) : len(text) + count]
        wrong = [(token + (len(text) + at) % 3 // 2) % 7 for at, token in enumerate(tokens)]
        return Guess(wrong, [None] * len(wrong))


@pytest.fixture(scope="module")
def plain_text() -> tuple[list[int], list[int]]:
    """A prompt with the first token after it, and all that follows to the context's end."""
    aim, prompt = target(scale=60), [3, 1, 4, 1, 5, 2, 6, 5, 3, 5]
    with torch.no_grad():
        begun = read(aim.model, aim.cache, prompt).argmax().item()
        count = SMALL.context - len(prompt)
        tokens, _ = decode(aim.model, aim.cache, torch.tensor([[begun]]), count)
    return [*prompt, begun], tokens[0].tolist()


@pytest.mark.parametrize("most", (1, 3, 8))
@pytest.mark.parametrize("kind", (Wavering, *DRAFTS))
def test_greedy_text_is_that_without_a_draft(kind, most, plain_text):
    begun, due = plain_text
    aim = target(scale=60)
    draft = kind(begun + due) if kind is Wavering else kind(aim)
    for count in (len(due), 1, 2, 17):
        begin(aim, draft, begun)
        spoken = speculate(aim.model, aim.cache, draft, begun, count, most)
        assert spoken.tokens == due[:count]
        assert aim.cache.length == len(begun) + count - 1
        assert sum(one.accepted + 1 for one in spoken.rounds) == count
        assert all(one.guessed <= most for one in spoken.rounds)
        if count < len(due):  # what is in the cache is what a fresh one would hold
            fresh = target(scale=60)
            whole = [*begun, *due[:count]]
            after = read(aim.model, aim.cache, whole[-1:])
            assert torch.allclose(after, read(fresh.model, fresh.cache, whole), atol=1e-4)
    if kind is Wavering and most > 2:
        assert 0 < acceptance(spoken.rounds) < 1


def test_at_a_low_temperature_samples_are_greedy(plain_text):
    begun, due = plain_text
    aim = target(scale=60)
    draft = Smaller(aim)
    begin(aim, draft, begun)
    sampler = Sampled(1e-4, None, torch.Generator().manual_seed(0))
    assert speculate(aim.model, aim.cache, draft, begun, 20, 4, sampler).tokens == due[:20]


def test_a_draft_reads_its_own_last_guess_where_all_were_accepted(plain_text):
    """A draft that is the model itself: never refused, so each pass gives k + 1 tokens."""
    begun, due = plain_text
    aim = target(scale=60, smaller=lambda: (SMALL, state_of(SMALL, 60)))
    draft, given = Smaller(aim), []
    begin(aim, draft, begun)
    draft.model.register_forward_pre_hook(lambda model, args: given.append(args[0][0].tolist()))
    spoken = speculate(aim.model, aim.cache, draft, begun, 12, 3)
    assert spoken.tokens == due[:12]
    assert spoken.rounds == [Round(3, 3)] * 3
    assert given[3] == due[2:4]  # its third guess, and the token that the model added
    assert [len(ids) for ids in given] == [1, 1, 1, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("text", "guesses"),
    [
        ([1, 2, 3, 9, 1, 2, 3], [9, 1, 2]),
        ([5, 5], [5, 5, 5]),  # it copies what it has just written
        ([7, 8, 7, 8], [7, 8, 7]),
        ([2, 3, 4, 9, 3, 5, 3], [5, 3, 5]),  # the last place where it stood
        ([2, 3, 4, 9, 3, 5, 2, 3], [4, 9, 3]),  # two tokens say more than one
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_a_look_up_goes_on_as_the_text_did(text, guesses):
    found = LookUp(target()).guess(text, 3, GREEDY)
    assert found.tokens == guesses
    assert found.q == [None] * len(guesses)


@torch.no_grad()
def test_agreement_is_counted_along_a_given_text():
    """A draft that knows what the model would say is wrong at one place in three, as it is made."""
    text, aim = [3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 2], target(scale=60)
    chosen = read(aim.model, aim.cache, text, last=len(text)).argmax(dim=-1).tolist()
    knowing = Wavering([text[0], *chosen])
    places = range(2, len(text) + 1)
    due = sum(place % 3 < 2 for place in places) / len(places)
    assert agreement(aim.model, aim.cache, knowing, text) == pytest.approx(due)
    for draft in (Smaller, EarlyExit):  # the model itself, and half of it
        same = draft(replace(aim, smaller=lambda: (SMALL, state_of(SMALL, 60))))
        assert (agreement(aim.model, aim.cache, same, text) == 1) == (draft is Smaller)
        assert aim.cache.length == len(text)
    assert agreement(aim.model, aim.cache, LookUp(aim), [1, 2, 3]) is None


# -- a session --


@pytest.fixture(scope="module")
def trained() -> Settings:
    """Of a base model that is trained for a few steps, and kept, as is its draft."""
    return Settings(shape=TINY, prompt_tokens=9, new_tokens=12, steps=2, base_steps=20)


@pytest.mark.parametrize("draft", RUNGS, ids=lambda kind: kind.__name__)
def test_a_rung_is_measured(draft, trained):
    rung = LADDER.rung(RUNGS[draft])
    below = replace(recipe_at(rung.base), dtype=torch.float32, linear=Linear)
    recipe = replace(rung.apply(below), draft_tokens=3)
    due = taken(below, trained)
    found = taken(recipe, trained, probe=lambda run: {"it": rung.in_effect(run)})
    assert found["decoded"] == due["decoded"]
    assert found["tokens_per_step"] == 12
    assert due["acceptance"] is None
    assert draft is LookUp or 0 <= found["acceptance"] <= 1  # this text may have no repeats
    assert draft is LookUp or 0 <= found["agreement"] <= 1
    assert 1 <= found["tokens_per_pass"] <= 4
    assert found["predicted_gain"] > 0
    assert min(found["draft_cost"], found["verify_cost"]) > 0
    assert found["in_effect"]["it"].endswith("passes for 12 tokens")
    assert found["held_out_loss"] == due["held_out_loss"]
    more = {name: found[name] - due[name] for name in ("weight_bytes", "cache_bytes")}
    little = smaller(TINY)
    assert (more["weight_bytes"] > 0) == (more["cache_bytes"] > 0) == (draft is Smaller)
    if draft is Smaller:
        assert more["cache_bytes"] == 2 * little.layers * 21 * little.emb_dim * 4


def test_bytes_are_those_of_the_passes_that_ran(trained):
    """Looked up: fewer passes than tokens. Skipped layers: passes without some of the weights."""
    plain = taken(recipe_at(5), trained)["read_bytes"]
    layer = 2 * (12 * TINY.emb_dim**2 + 10 * TINY.emb_dim)
    for draft, guess in ((LookUp, 0), (EarlyExit, plain - layer)):
        runs = []
        recipe = replace(recipe_at(5), draft=draft, draft_tokens=3)
        found = taken(recipe, trained, lambda run, runs=runs: runs.append(run))
        rounds = runs[0].rounds
        due = len(rounds) * plain + sum(one.guessed for one in rounds) * guess
        assert found["read_bytes"] == pytest.approx(due / 12, rel=1e-2)
        assert found["tokens_per_pass"] == 12 / len(rounds)


class TakesAll(Greedy):
    """Accepts whatever is guessed."""

    def judge(self, logits, guess):
        return len(guess.tokens), logits[-1].argmax().item()


def test_a_session_that_accepts_what_is_wrong_is_void(trained, monkeypatch):
    def speculating(*given):
        return speculate(*given, sampler=TakesAll())

    monkeypatch.setattr(session, "speculate", speculating)
    with pytest.raises(Disturbed, match="a token was emitted whose logit is .* below the largest"):
        taken(replace(recipe_at(5), draft=Wrong, draft_tokens=3), trained)


class Wrong(Draft):
    def guess(self, text, count, sampler):
        return Guess([11] * count, [None] * count)


def test_a_draft_that_never_guesses_is_not_in_effect(trained):
    def plainly(one):
        return decode(one.run.model, one.run.cache, one.begun, one.run.new_tokens)

    for draft, number in RUNGS.items():
        recipe = replace(recipe_at(5), draft=draft, draft_tokens=3)
        with pytest.raises(NotInEffect, match="12 passes, of which a draft guessed for 0"):
            taken(recipe, trained, LADDER.rung(number).in_effect, decode=plainly)


class Silent(Smaller):
    def guess(self, text, count, sampler):
        return Guess()


def test_a_draft_model_that_says_nothing_is_not_in_effect(trained):
    rung = LADDER.rung(RUNGS[Smaller])
    with pytest.raises(NotInEffect, match="0 guesses of its model, by 0 passes"):
        taken(replace(recipe_at(5), draft=Silent, draft_tokens=3), trained, rung.in_effect)


# -- the check --


def refused(**changes) -> str:
    """What the check says of a rung with skipped layers, spoiled."""
    below = recipe_at(5)
    recipe = replace(below, draft=EarlyExit, draft_tokens=3)
    with pytest.raises(NotEquivalent) as told:
        checked(replace(recipe, **changes), below, Numerics.ROUNDING)
    return str(told.value)


class LeavesItsGuesses(EarlyExit):
    """Its keys and values stay where the model's own should be."""

    def guess(self, text, count, sampler) -> Guess:
        found = super().guess(text, count, sampler)
        self.cache.keys[:, :, :, : self.cache.length] += 0.1
        return found


def test_a_draft_that_spoils_the_cache_is_found():
    said = refused(draft=LeavesItsGuesses)
    assert "with a draft, greedy text" in said or "after text with a draft" in said


def test_a_wrong_acceptance_is_found(monkeypatch):
    monkeypatch.setattr(Greedy, "judge", TakesAll.judge)
    assert "with a draft, greedy text in float32 is not" in refused(draft=Wrong)


# -- where it cannot be --


@pytest.mark.parametrize("draft", DRAFTS)
def test_untrained_weights_are_not_guessed_for(draft):
    with pytest.raises(DoesNotApply, match="untrained weights say nothing of what is accepted"):
        draft(target(trained=False))
    with pytest.raises(DoesNotApply):
        taken(replace(recipe_at(5), draft=draft, draft_tokens=2))


def test_weights_of_a_file_need_a_draft_of_a_file(tmp_path):
    with pytest.raises(DoesNotApply, match="--draft FILE"):
        Smaller(target(smaller=lambda: draft_weights(Settings(shape=SMALL, weights="x"))))


@pytest.mark.parametrize("draft", RUNGS, ids=lambda kind: kind.__name__)
def test_several_requests_have_no_draft(draft):
    applies = LADDER.rung(RUNGS[draft]).applies
    assert applies(None, replace(NAIVE, requests=2)) == "its guesses are for one request alone"
    assert applies(None, NAIVE) is None


LITTLE = replace(TINY, emb_dim=16, heads=1, layers=1)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (replace(LITTLE, vocab_size=500), r"a draft of another vocabulary: 500 tokens, and the"),
        (replace(LITTLE, context=20), "a draft with a context of 20: 21 are needed"),
        (replace(LITTLE, emb_dim=24), "a draft of width 24: not made of heads of 16"),
    ],
)
def test_a_draft_that_does_not_fit_is_a_sentence(tmp_path, shape, said):
    path = tmp_path / "draft.pt"
    torch.save(state_of(shape), path)
    settings = Settings(shape=TINY, prompt_tokens=9, new_tokens=12, weights="x", draft=str(path))
    with pytest.raises(UserError, match=said) as told:
        draft_weights(settings)
    assert str(told.value).startswith(f"--draft {path}: ")
    assert "\n" not in str(told.value)


def test_a_draft_of_a_file_has_the_shape_of_its_parameters(tmp_path):
    path, due = tmp_path / "draft.pt", state_of(LITTLE)
    torch.save(due, path)
    settings = Settings(shape=TINY, prompt_tokens=9, new_tokens=12, weights="x", draft=str(path))
    shape, state = draft_weights(settings)
    assert shape == LITTLE
    assert all(torch.equal(state[name], due[name]) for name in due)


def test_a_smaller_shape_is_one():
    assert smaller(Shape()) == Shape(layers=2, heads=3, emb_dim=192)
    for width, heads in ((8, 2), (30, 15), (2, 1), (1, 1)):
        found = smaller(Shape(layers=1, heads=heads, emb_dim=width))
        assert found.emb_dim % found.heads == 0
        assert found.layers == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--draft", "x"), "--draft: with --weights alone"),
        (("--weights", "{weights}", "--draft", "/nowhere"), "--draft /nowhere: no such file"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, options, said):
    tiny = Shape(layers=2, heads=2, emb_dim=32, context=64)
    torch.save(state_of(tiny), tmp_path / "model.pt")
    options = [option.format(weights=tmp_path / "model.pt") for option in options]
    start = ["--ladder", "inference", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, *options])


def test_a_sampler_that_cannot_be_is_a_sentence():
    for temperature in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="--temperature .*: must be a number from 0 on"):
            sampler_for(temperature)
    with pytest.raises(UserError, match="--top-k 0: must be a whole number from 1 on"):
        sampler_for(1.0, 0)
    assert sampler_for(0.0) is GREEDY
    assert isinstance(sampler_for(0.5, 3), Sampled)


def test_a_distribution_is_of_the_likeliest_at_a_temperature():
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, -1.0])
    p = Sampled(2.0, 2).distribution(logits)
    assert p.tolist() == pytest.approx([0, 1 / (1 + math.exp(-0.5)), *_one_of_two(p), 0])
    assert torch.allclose(Sampled(1.0, None).distribution(logits), torch.softmax(logits, dim=-1))
    assert torch.allclose(Sampled(1.0, 99).distribution(logits), torch.softmax(logits, dim=-1))


def _one_of_two(p: torch.Tensor) -> list[float]:
    """Exactly one of two equal tokens is kept."""
    kept = p[2:4].tolist()
    assert sorted(map(bool, kept)) == [False, True]
    return kept

"""Requests side by side, alike or in a stream: each is answered as if it were alone."""

from dataclasses import dataclass, replace

import pytest
import torch

from common.accelerator.compiler import forget_graphs
from common.engine.contract import Disturbed, NotEquivalent, NotInEffect
from common.workloads.generate import metrics
from common.workloads.generate.base import untrained
from common.workloads.generate.check import SHAPE, coarse_state
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import decode, likeliest
from common.workloads.generate.session import build
from common.workloads.generate.stream import Request, Schedule, Served, serve, stream
from common.workloads.generate.stream_session import StreamSession, latencies, percentile
from ladders.inference import LADDER, step05_packed_weights
from ladders.inference import step14_batching as batching
from ladders.inference import step15_static_batches as static
from ladders.inference import step16_continuous_batching as continuous
from ladders.inference.step06_int8_weights import Int8
from ladders.inference.step15_static_batches import Static, Uneven
from ladders.inference.step16_continuous_batching import Continuous
from tests.test_inference import (
    COLUMNS,
    CPU,
    HERE,
    NAIVE,
    SETTINGS,
    checked,
    recipe_at,
    seen_by,
    taken,
)

NUMBER = {rung.module: rung.number for rung in LADDER.rungs}
PLAIN = {"dtype": torch.float32, "linear": Linear, "compile": False}


def recipe_of(module, **changes):
    return recipe_at(NUMBER[module], **{"compile": False} | changes)


# -- side by side --


@pytest.mark.parametrize("recipe", [NAIVE, recipe_of(batching, **PLAIN)], ids=["naive", "batched"])
def test_a_row_is_the_request_alone(recipe):
    recipe = replace(recipe, dtype=torch.float64)
    ids = torch.randint(SHAPE.vocab_size, (8, 9), generator=torch.Generator().manual_seed(1))
    found = {}
    for requests in (8, 1):
        recipe = replace(recipe, requests=requests)
        model, cache = build(recipe, SHAPE, coarse_state(), 9, CPU)
        parts = []
        for rows in ids.split(requests):
            cache.rollback(0)
            model(rows[:, :6], cache)
            parts.append(torch.cat([model(rows[:, n : n + 1], cache) for n in (6, 7, 8)], dim=1))
        found[requests] = torch.cat(parts)
    assert torch.allclose(found[8], found[1], rtol=1e-12, atol=1e-12)


def test_a_batch_counts_the_tokens_of_all_its_requests():
    found = taken(recipe_of(batching), SETTINGS)
    assert found["tokens_per_step"] == 8 * SETTINGS.new_tokens
    one = taken(recipe_at(7), SETTINGS)
    assert found["cache_bytes"] == 8 * one["cache_bytes"]
    assert found["weight_bytes"] == one["weight_bytes"]


# -- who is let in when --


class Tokens:
    """A cache of nothing, that knows who was let in and who is gone."""

    places = torch.zeros(1)

    def __init__(self, requests: int) -> None:
        self.requests, self.released = requests, []

    def release(self, row: int) -> None:
        self.released.append(row)


def counting(ids: torch.Tensor, cache) -> torch.Tensor:
    """Says of each row the number that comes after its last one."""
    return torch.nn.functional.one_hot(ids + 1, 100).float()


def request(number: int, new_tokens: int, arrives: int = 0) -> Request:
    return Request(number=number, arrives=arrives, prompt_tokens=1, new_tokens=new_tokens)


def served(requests: list[Request], schedule: type[Schedule], rows: int = 2) -> Served:
    """Request n begins after token 10 n."""

    def admit(request: Request, row: int) -> torch.Tensor:
        return torch.tensor([10 * request.number])

    found = serve(counting, Tokens(rows), requests, schedule, admit)
    for one in requests:
        due = range(10 * one.number + 1, 10 * one.number + 1 + one.new_tokens)
        assert found.tokens(one).tolist() == [*due]
    return found


UNEVEN = [request(0, 3), request(1, 1), request(2, 2)]


def test_a_static_batch_waits_for_its_longest():
    found = served(UNEVEN, Static)
    assert [*found.places.values()] == [(0, 0), (1, 0), (0, 3)]
    assert (found.passes, found.row_use, found.refilled) == (5, 0.6, 0)


def test_a_row_is_taken_again_at_once():
    found = served(UNEVEN, Continuous)
    assert [*found.places.values()] == [(0, 0), (1, 0), (1, 1)]
    assert (found.passes, found.row_use, found.refilled) == (3, 1.0, 1)


@pytest.mark.parametrize("schedule", (Static, Continuous))
def test_nobody_is_let_in_before_it_arrives(schedule):
    found = served([request(0, 2), request(1, 2, arrives=1), request(2, 1, arrives=9)], schedule)
    begins = [found.times[begin] for _, begin in found.places.values()]
    assert begins == {Static: [0, 2, 9], Continuous: [0, 1, 9]}[schedule]
    assert found.times == {Static: [0, 1, 2, 3, 9], Continuous: [0, 1, 2, 9]}[schedule]


def test_a_stream_is_drawn_from_a_seed():
    found = stream(32, 8, 256, 32)
    assert found == stream(32, 8, 256, 32)
    assert [one.number for one in found] == [*range(32)]
    assert [one.arrives for one in found[:8]] == [0] * 8
    arrivals = [one.arrives for one in found]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] > 8
    assert {128 <= one.prompt_tokens <= 256 for one in found} == {True}
    assert {1 <= one.new_tokens <= 32 for one in found} == {True}
    assert len({one.new_tokens for one in found}) > 10
    assert min(one.prompt_tokens for one in stream(32, 8, 1, 1)) == 1


def test_rows_keep_up_with_arrivals_on_average():
    """As many tokens are asked for as the rows give between arrivals."""
    found = stream(4000, 8, 16, 31)
    asked = sum(one.new_tokens for one in found)
    assert asked / 8 / found[-1].arrives == pytest.approx(1, abs=0.1)


# -- the gate --


class SeesOneMore(Uneven):
    """A key behind its last: what whoever had the row before has left there."""

    def seen(self, positions):
        return super().seen(positions + 1)


class OneMaskForAll(Uneven):
    """That of the longest request."""

    def seen(self, positions):
        return super().seen(positions.amax(dim=0, keepdim=True).expand_as(positions))


class OneLengthForAll(Uneven):
    """Positions are the first row's."""

    def begin(self, ids):
        self.lengths = self.lengths[:1] * self.requests
        return super().begin(ids)


class OffByOne(Uneven):
    """In a row that is taken again."""

    def admit(self, request, read):
        again = bool(self.keys[:, request, :, 1:].any())
        super().admit(request, read)
        if again:
            self.has(request, read.length - 1)


class KeepsWhatItHad(Uneven):
    """The first key of whoever had the row before."""

    def admit(self, request, read):
        before = self.keys[:, request, :, :1].clone()
        super().admit(request, read)
        if before.any():
            self.keys[:, request, :, :1] = before


class OtherRow(Uneven):
    """A prompt goes into the row beside its own."""

    def admit(self, request, read):
        super().admit(request, read)
        beside = (request + 1) % self.requests
        self.keys[:, beside, :, : read.length] = read.keys[:, 0, :, : read.length]


class WritesBehind(Uneven):
    """New keys go one slot too far."""

    def extend(self, layer, key, value, positions):
        return super().extend(layer, key, value, (positions + 1).clamp(max=self.capacity - 1))


FAULTS = (
    *(SeesOneMore, OneMaskForAll, OneLengthForAll, OffByOne, KeepsWhatItHad, OtherRow),
    WritesBehind,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_found(fault):
    below = recipe_of(static)
    with pytest.raises(NotEquivalent, match="the logits differ"):
        checked(recipe_of(continuous, cache=fault), below)


@pytest.mark.parametrize("module", (static, continuous))
def test_every_answer_of_a_stream_is_that_of_the_request_alone(module):
    """Greedy, in float32, where no near tie is turned around; the row before leaves no trace."""
    sessions = []

    def keep(session, timed, tell):
        sessions.append(session)
        return StreamSession.values(session, timed, tell)

    recipe = recipe_of(module, **PLAIN)
    found = taken(recipe, SETTINGS, values=keep)
    (session,) = sessions
    model, cache = build(NAIVE, SETTINGS.shape, untrained(SETTINGS.shape).state, 14, CPU)
    due = []
    for one in session.requests:
        cache.rollback(0)
        prompt = session.prompts[one.number, None, : one.prompt_tokens]
        due += decode(model, cache, likeliest(model(prompt, cache)), one.new_tokens)[0][0].tolist()
    assert found["decoded"] == due
    assert len({one.new_tokens for one in session.requests}) > 2


class AdmitsOnce(Uneven):
    """Only the first request of a row is given its prompt."""

    given = 0

    def admit(self, request, read):
        self.given += 1
        if self.given <= 8:
            super().admit(request, read)
        else:
            self.has(request, read.length)


def test_a_stream_that_is_answered_otherwise_each_time_is_void():
    with pytest.raises(Disturbed, match="steps decoded other tokens"):
        taken(recipe_of(continuous, cache=AdmitsOnce, **PLAIN), SETTINGS)


def test_a_stream_that_lacks_an_answer_is_void():
    def cut(session, served):
        return StreamSession.answers(session, served)[:, 1:]

    with pytest.raises(Disturbed, match="steps ended at .* tokens instead of"):
        taken(recipe_of(continuous), SETTINGS, answers=cut)


def test_prompts_in_between_must_give_the_same_answers():
    def other(session, request):
        cache, first = StreamSession.read(session, request)
        late = getattr(session, "decoded", [])
        return cache, first + bool(late)

    with pytest.raises(Disturbed, match="with prompts read in between the answers are other ones"):
        taken(recipe_of(continuous), SETTINGS, read=other)


@pytest.mark.parametrize(
    ("module", "changes", "said"),
    [
        (batching, {"requests": 1}, "1 tokens ran in a pass, instead of 8"),
        (continuous, {"schedule": Static}, "no row was taken again"),
    ],
)
def test_a_rung_that_does_not_act_is_not_in_effect(module, changes, said):
    recipe = recipe_of(module, **changes)
    with pytest.raises(NotInEffect, match=said):
        taken(recipe, SETTINGS, probe=lambda run: {"it": module.in_effect(run)})


def test_a_stream_can_be_compiled():
    """Once, for rows of any lengths: as it runs on GPUs, where prompts do not go through it."""
    forget_graphs()  # those of tests before this one
    eager = recipe_of(continuous, **PLAIN)
    compiled = replace(eager, compile=True, compile_mode="default")
    found = taken(compiled, SETTINGS, lambda run: {"it": batching.in_effect(run)})
    assert found["in_effect"]["it"] == "8 rows, float32"
    assert found["decoded"] == taken(eager, SETTINGS)["decoded"]


def test_a_kernel_that_falls_back_is_not_in_effect():
    class Silent(Int8):
        def multiply(self, rows):
            return self.many(rows)

    with pytest.raises(NotInEffect, match="0 of 25 products took the int8 kernel"):
        taken(recipe_of(batching, linear=Silent), SETTINGS, batching.in_effect)


@pytest.mark.parametrize("module", (batching, static, continuous))
def test_a_rung_that_acts_is_seen(module):
    assert seen_by(NUMBER[module], recipe_of(module))


def test_there_is_nothing_to_schedule_without_a_batch_and_a_stream():
    assert static.applies(None, NAIVE) == "one request at a time is no batch"
    assert continuous.applies(None, recipe_of(batching)) == "there is no stream of requests"


@pytest.mark.parametrize("packs", (True, False))
def test_a_cpu_that_packs_weights_does_not_compile_batches(packs, monkeypatch):
    """Packed ones, which are the faster ones for eight rows, cannot be."""
    monkeypatch.setattr(step05_packed_weights, "packs_bfloat16", lambda: packs)
    if not packs:
        assert batching.candidates(HERE, recipe_at(8)) == {}
        return
    offered = batching.candidates(HERE, recipe_at(8))
    assert [*offered] == ["bfloat16", "int4"]
    assert {(recipe.compile, recipe.requests) for recipe in offered.values()} == {(False, 8)}
    assert batching.candidates(replace(HERE, type="cuda"), recipe_at(8)) == {}
    assert batching.apply(recipe_at(8)).compile


# -- figures --


def test_static_and_continuous_batches_do_the_same_work():
    found = {kind: taken(recipe_of(kind), SETTINGS) for kind in (static, continuous)}
    one, other = found.values()
    assert one["decoded"] == other["decoded"]
    assert one["tokens_per_step"] == other["tokens_per_step"] == len(one["decoded"])
    assert one["passes"] > other["passes"]
    assert one["row_use"] == one["tokens_per_step"] / 8 / one["passes"] < other["row_use"] <= 1
    for each in (one, other):
        assert each["ttft_s"] == each["first_50_s"] <= each["first_95_s"]
        assert 0 < each["token_50_s"] <= each["token_95_s"] < each["request_95_s"]
        assert each["request_95_s"] <= each["served_s"]


@dataclass
class Half:
    """What `latencies` reads of a Served."""

    places: dict
    times: list


def test_worked_example_of_latencies():
    """Two rows; the third request arrives as pass 1 begins, and is let in at pass 2."""
    first, second, third = request(0, 2), request(1, 3), request(2, 1, arrives=1)
    made = Half({first: (0, 0), second: (1, 0), third: (0, 2)}, [0, 1, 2])
    firsts = {first: 1.0, second: 2.0, third: 6.5}  # prompts of a second each; one of 0.5
    found = latencies(made, [0.0, 4.0, 6.0, 8.0], firsts)
    assert found["first"] == [1.0, 2.0, 2.5]
    assert found["token"] == [3.0, 2.0, 2.0, 2.0, 2.0, 1.5]
    assert found["request"] == [6.0, 8.0, 4.0]


def test_worked_example_of_percentiles():
    values = [*range(20, 0, -1)]
    assert [percentile(values, share) for share in (50, 95, 100)] == [10, 19, 20]
    assert percentile([3.0], 95) == 3.0


WAITS = {"first": 0.25, "token": 0.012, "request": 1.5}
OF_A_STREAM = {"passes": 10, "served_s": 2.0} | {
    f"{name}_{share}_s": seconds for name, seconds in WAITS.items() for share in (50, 95)
}


def record(rung: int = 11, **measured) -> dict:
    return {
        "status": "ok",
        "rung": rung,
        "name": "Continuous batching",
        "measurement": {"step_s": [0.5], "tokens_per_step": 64} | measured,
        "settings": {"new_tokens": 32, "stream": 32},
        "recipe": {"requests": 8},
        "ceilings": {},
    }


def test_columns_of_a_stream():
    served = record(**OF_A_STREAM)
    of = {name: metric.of(served) for name, metric in COLUMNS.items() if "stream" in name}
    assert of == {
        "stream_tok_per_s": 32,
        "stream_first_p50_ms": 250,
        "stream_first_p95_ms": 250,
        "stream_token_p50_ms": 12,
        "stream_token_p95_ms": 12,
        "stream_request_p50_ms": 1500,
        "stream_request_p95_ms": 1500,
    }
    assert COLUMNS["ms_per_token"].of(served) == 50  # each pass is a token of each request
    assert COLUMNS["requests"].of(served) == 8
    assert all(COLUMNS[name].of(record()) is None for name in of)


def test_streams_have_a_table_of_their_own():
    assert metrics.streams([record()]) == ""
    seconds = ((10, 2.0), (11, 1.0), (11, 3.0))
    served = [record(rung, **OF_A_STREAM | {"served_s": s}) for rung, s in seconds]
    table = metrics.streams([record(9), *served]).splitlines()
    assert [line.split()[0] for line in table[3:]] == ["10", "11"]
    waits = ["250.0", "250.0", "12.0", "12.0", "1,500", "1,500"]
    assert table[-1].split()[3:] == ["42.7", *waits]  # the mean of 64 and 21.3
    assert max(map(len, table)) <= 80

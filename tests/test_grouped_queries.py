"""Heads that share keys and values: logits as with a copy for each, and what is trained."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from common.cli import run as command
from common.engine.contract import DoesNotApply, NotEquivalent, NotInEffect, Numerics
from common.gpt.model import CausalAttention, StoredMask
from common.gpt.shape import Shape
from common.workloads.generate import base, metrics, uptrain
from common.workloads.generate.caches import Cache
from common.workloads.generate.check import CAPACITY, SHAPE, answers, coarse_state
from common.workloads.generate.heads import pooled, repeated, spread
from common.workloads.generate.session import HELD_OUT, build, kept_shape
from common.workloads.train.build import evaluate
from ladders.inference.step04_sdpa import FusedAttention, WideAttention
from ladders.inference.step09_grouped_queries import CHOICES, Folded, Native, Repeated
from tests.test_inference import (
    CPU,
    HERE,
    LADDER,
    NAIVE,
    SETTINGS,
    TINY,
    checked,
    recipe_at,
    seen_by,
    taken,
)
from tests.test_inference import record as a_record

# by how much logits in float64 may differ: two compute a single token's attention in float32
WAYS = {Folded: 1e-11, Native: 1e-5, Repeated: 1e-5}


def eager(number: int, **changes):
    """A rung's recipe without its compilation, which takes seconds."""
    below = recipe_at(8, compile=False)
    return replace(LADDER.rung(number).apply(below), **changes)


def exactly(kind, size: int, **changes):
    """In float64, on a preallocated cache."""
    recipe = recipe_at(2, dtype=torch.float64, attention=kind, heads_per_kv=size)
    return replace(recipe, **changes)


# -- parameters --


def test_heads_are_averaged_within_neighbours_and_copied_back():
    """4 heads of 2 columns become 2: each is the mean of two neighbours."""
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    state = {
        f"blocks.0.attention.W_{name}.{part}": rows if part == "weight" else rows[:, 0]
        for name in ("query", "key", "value")
        for part in ("weight", "bias")
    }
    state |= {"final_norm.weight": torch.ones(8), "blocks.0.attention.out_proj.weight": rows}
    found = pooled(state, heads=4, kv_heads=2)
    back = spread(found, heads=4)
    for name, parameter in found.items():
        if "W_key" in name or "W_value" in name:
            first = parameter[:, 0] if parameter.dim() == 2 else parameter
            assert first.tolist() == [1, 2, 5, 6]
            again = back[name][:, 0] if parameter.dim() == 2 else back[name]
            assert again.tolist() == [1, 2, 1, 2, 5, 6, 5, 6]
        else:
            assert parameter is state[name] is back[name]


def test_as_many_heads_as_queries_are_what_they_were():
    state = coarse_state()
    for same in (pooled(state, SHAPE.heads, SHAPE.heads), spread(state, SHAPE.heads)):
        assert all(torch.equal(same[name], p) for name, p in state.items())


# -- logits --


@pytest.mark.parametrize("size", (1, 2, 4, 0))
@pytest.mark.parametrize("kind", WAYS)
def test_logits_are_those_of_multi_head_attention_with_copies(kind, size):
    """The whole session of the check: prompts, chunks, single tokens, a rollback."""
    kv_heads = SHAPE.heads // (size or SHAPE.heads)
    state = coarse_state(kv_heads)
    many = answers(exactly(NAIVE.attention, 1), spread(state, SHAPE.heads), CPU)
    own = answers(exactly(kind, size), state, CPU)
    for name, due in many.items():
        assert torch.allclose(own[name], due, rtol=WAYS[kind], atol=WAYS[kind]), name


@pytest.mark.parametrize("kind", WAYS)
def test_equal_heads_lose_nothing_by_being_shared(kind):
    """Then the grouped model is the multi-head one that it was made of."""
    many = spread(coarse_state(2), SHAPE.heads)
    few = pooled(many, SHAPE.heads, 2)
    due = answers(exactly(NAIVE.attention, 1), many, CPU)
    own = answers(exactly(kind, 4), few, CPU)
    assert all(torch.allclose(own[k], due[k], rtol=WAYS[kind], atol=WAYS[kind]) for k in due)


@pytest.mark.parametrize("compiled", (False, True), ids=("slice", "all slots"))
def test_rows_of_a_group_as_many_as_keys_are_no_prompt(compiled):
    """A chunk of 6 on 18 tokens, 4 rows each: 24 rows over 24 keys, and no triangle fits."""
    cache = recipe_at(8 if compiled else 2).cache
    ids = torch.randint(SHAPE.vocab_size, (1, 24), generator=torch.Generator().manual_seed(0))
    logits = []
    for kind, size in ((Folded, 4), (NAIVE.attention, 1)):
        state = coarse_state(2) if size > 1 else spread(coarse_state(2), SHAPE.heads)
        model, kept = build(exactly(kind, size, cache=cache), SHAPE, state, CAPACITY, CPU)
        model(ids[:, :18], kept)
        logits.append(model(ids[:, 18:], kept, last=6))
    assert torch.allclose(*logits, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("label", [*CHOICES, "all"])
def test_a_rung_has_the_logits_that_it_declares(label):
    offered = LADDER.rung(9).candidates(HERE, recipe_at(8, compile=False))
    recipe = offered.get(label) or eager(10)
    found = checked(recipe, recipe_at(8), LADDER.numerics(9))
    assert found.claim is Numerics.DIFFERENT_WORK
    assert found.error < 2e-1  # int4's
    assert found.rounded_error < 1e-2
    assert found.float32_error < 1e-6


class Interleaved(Folded):
    """Query head h reads the keys and values of head h % K, not of its own group."""

    def attend(self, query, key, value, seen):
        kv_heads = key.shape[1]
        order = torch.arange(query.shape[1]).view(-1, kv_heads).t().flatten()
        context = super().attend(query[:, order], key, value, seen)
        return context[:, order.argsort()]


class ScaledTwice(Folded):
    def attend(self, query, key, value, seen):
        return super().attend(query / query.shape[-1] ** 0.5, key, value, seen)


class FoldedTokensFirst(Folded):
    """Rows are folded by head and then by token, and unfolded the other way round."""

    def attend(self, query, key, value, seen):
        size, tokens = query.shape[1] // key.shape[1], query.shape[-2]
        context = super().attend(query, key, value, seen)
        rows = context.unflatten(1, (-1, size)).flatten(2, 3)  # (B, K, G n, D)
        return rows.unflatten(2, (tokens, size)).transpose(2, 3).flatten(1, 2)


class MaskOfAnotherOrder(Folded):
    """Each token's row of the mask is copied beside itself, where the rows of a head belong."""

    def attend(self, query, key, value, seen):
        size = query.shape[1] // key.shape[1]
        rows = query.unflatten(1, (-1, size)).flatten(2, 3)
        mask = None if seen is None else seen.repeat_interleave(size, dim=0)
        context = F.scaled_dot_product_attention(rows, key, value, mask)
        return context.unflatten(2, (size, -1)).flatten(1, 2)


class KeysOfAnotherGroup(Repeated):
    def attend(self, query, key, value, seen):
        return super().attend(query, key.roll(1, dims=1), value, seen)


class ValuesForKeys(Folded):
    def project(self, x):
        query, key, value = super().project(x)
        return query, value, key


FAULTS = (Interleaved, ScaledTwice, FoldedTokensFirst, MaskOfAnotherOrder, KeysOfAnotherGroup)


@pytest.mark.parametrize("fault", (*FAULTS, ValuesForKeys), ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_found(fault):
    with pytest.raises(NotEquivalent):
        checked(eager(9, attention=fault, heads_per_kv=4), recipe_at(8), LADDER.numerics(9))


def test_a_rung_that_shares_without_saying_so_is_found():
    with pytest.raises(NotEquivalent, match="declared rounding, but keys and values have 4 heads"):
        checked(eager(9), recipe_at(8, compile=False), Numerics.ROUNDING)


# -- what is kept --


@pytest.mark.parametrize("number", (1, 2, 8))
@pytest.mark.parametrize(("size", "kv_heads"), ((2, 4), (4, 2), (0, 1)))
def test_a_cache_has_the_heads_of_keys_and_values(number, size, kv_heads):
    recipe = recipe_at(number, attention=Folded, heads_per_kv=size, dtype=torch.float32)
    recipe = replace(recipe, compile=False, linear=NAIVE.linear, requests=3)
    model, cache = build(recipe, SHAPE, coarse_state(kv_heads), 12, CPU)
    model(torch.zeros(3, 12, dtype=torch.int64), cache)
    many = 2 * SHAPE.layers * 12 * SHAPE.emb_dim * 4 * 3
    assert cache.nbytes == cache.reads(12) == many * kv_heads // SHAPE.heads


@pytest.mark.parametrize(
    ("shape", "size", "shrinks"),
    (
        (Shape(layers=80, heads=64, emb_dim=8192, context=4096), 8, 8),  # Llama 2 70B
        (Shape(), 0, 12),  # one head of 64 columns: 2 L T d / H
        (Shape(), 4, 4),
    ),
)
def test_worked_examples_of_cache_bytes(shape, size, shrinks):
    few = kept_shape(recipe_at(2, attention=Folded, heads_per_kv=size), shape)
    bytes_of = [Cache(s, torch.bfloat16, 1, 1024, CPU).reads(1024) for s in (few, shape)]
    assert bytes_of[1] == shrinks * bytes_of[0] == 2 * shape.layers * 1024 * shape.emb_dim * 2


@pytest.mark.parametrize(("heads", "size"), ((2, 2), (4, 4), (25, 2), (6, 4), (1, 2)))
def test_heads_that_make_no_groups_are_refused(heads, size):
    shape = replace(SHAPE, heads=heads, emb_dim=32 * heads)
    with pytest.raises(DoesNotApply, match=f"{heads} query heads are not several groups of {size}"):
        kept_shape(eager(9, heads_per_kv=size), shape)


def test_rung_10_reads_as_rung_9_found_best():
    below = recipe_at(8)
    chosen = LADDER.rung(9).candidates(HERE, below)["2 a group, enable_gqa"]
    assert LADDER.rung(10).apply(chosen).attention is Native
    assert LADDER.rung(10).apply(below).attention is Folded  # without rung 9


def test_a_rung_that_acts_is_seen():
    assert seen_by(9, eager(9)) == "2 of 4 heads, folded"
    assert seen_by(9, eager(9, attention=Native)) == "2 of 4 heads, native"
    assert seen_by(10, eager(10)) == "1 of 4 heads, folded"


class Unfused(Repeated):
    def attend(self, query, key, value, seen):
        return NAIVE.attention.attend(self, *repeated(query, key, value), seen)


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (9, {"attention": FusedAttention}, "all 4 query heads have keys and values of their own"),
        (9, {"attention": Unfused}, "no fused attention kernel ran"),
        (10, {"heads_per_kv": 2}, "keys and values have 2 heads"),
    ],
)
def test_a_rung_that_does_not_act_is_not_in_effect(number, changes, said):
    with pytest.raises(NotInEffect, match=said):
        seen_by(number, eager(number, **changes))


def test_a_single_token_is_converted_on_a_cpu_only():
    """On a GPU its kernels for 16 bits are the fast ones."""
    attention = WideAttention.__new__(WideAttention)
    seen = []

    def kernel(query, *_, **__):
        seen.append(query.dtype)
        return query

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", kernel)
        for device in ("cpu", "meta"):
            part = torch.zeros(1, 2, 1, 8, dtype=torch.bfloat16, device=device)
            WideAttention.attend(attention, part, part, part, None)
    assert seen == [torch.float32, torch.bfloat16]


# -- what is trained --

TRAINED = replace(SETTINGS, base_steps=3, uptrain_steps=2)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    """One cache for the tests that follow: each model in it is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_CACHE", str(folder := tmp_path_factory.mktemp("heads")))
        yield folder


def test_training_attends_as_multi_head_attention_with_copies():
    few = uptrain.SharingAttention(32, 4, 0.0, StoredMask(16), kv_heads=2).double()
    many = CausalAttention(32, 4, 0.0, StoredMask(16)).double()
    state = {f"attention.{k}": v for k, v in few.state_dict().items()}
    copies = spread(state | {"final_norm.weight": torch.ones(32)}, 4)
    many.load_state_dict({k.removeprefix("attention."): copies[k] for k in state})
    x = torch.randn(2, 16, 32, dtype=torch.float64)
    assert torch.allclose(few(x), many(x), rtol=1e-12, atol=1e-12)


def test_shared_heads_are_trained_once_and_kept(cache_folder, monkeypatch):
    said = []
    monkeypatch.setattr(uptrain, "aloud", said.append)
    monkeypatch.setattr(base, "EVERY_S", 0.0)
    found = uptrain.weights_with(TRAINED, 2)
    assert [line.split(",")[0] for line in said] == [
        "4 of 4 heads of keys and values: step 1 of 2",
        "4 of 4 heads of keys and values: step 2 of 2",
        "2 of 4 heads of keys and values: step 1 of 2",
        "2 of 4 heads of keys and values: step 2 of 2",
    ]
    again = uptrain.weights_with(TRAINED, 2)
    assert len(said) == 4
    assert again.told == found.told
    assert found.told["kv_heads"] == 2
    assert all(torch.equal(again.state[name], p) for name, p in found.state.items())
    start = pooled(base.weights_for(TRAINED).state, 4, 2)
    assert not any(torch.equal(start[name], p) for name, p in found.state.items() if "W_" in name)
    path = uptrain.uptrained_path(TRAINED, 2)
    path.write_bytes(path.read_bytes()[:1000])
    assert all(
        torch.equal(uptrain.weights_with(TRAINED, 2).state[k], p) for k, p in found.state.items()
    )
    assert len(said) == 6  # it was damaged


def test_other_training_has_another_name():
    others = (
        uptrain.uptrained_path(TRAINED, 2),
        uptrain.uptrained_path(TRAINED, 1),
        uptrain.uptrained_path(replace(TRAINED, uptrain_steps=3), 2),
        uptrain.uptrained_path(replace(TRAINED, base_steps=4), 2),
    )
    assert len({*others}) == 4
    assert uptrain.uptrained_path(replace(TRAINED, prompt_tokens=3), 2) in others


def test_the_control_goes_on_from_the_same_point_on_the_same_windows(cache_folder, monkeypatch):
    """It is the base model, one step further; the shared heads' step is on the same windows."""
    settings = replace(TRAINED, uptrain_steps=1)
    start, batches, step = base.weights_for(settings).state, [], base.train_step

    def spy(run, *batch):
        batches.append(batch)
        return step(run, *batch)

    monkeypatch.setattr(base, "train_step", spy)
    uptrain.weights_with(settings, 1)
    (inputs, targets), (shared, _) = batches
    assert torch.equal(inputs, shared)
    due = base.build(base.RECIPE, TINY, CPU)
    due.model.load_state_dict(start)
    step(due, inputs, targets)
    found = uptrain.control(settings).state
    for name, parameter in due.model.state_dict().items():
        assert torch.allclose(found[name], parameter, atol=1e-4), name
        assert not torch.equal(found[name], start[name])


def loss_of(state) -> float:
    """Of a GPT in training's own code, on the first held-out windows."""
    _, held_out = base.split(base.read_tokens(base.read_text(None)), TINY)
    run = base.build(base.RECIPE, TINY, CPU)
    run.model.load_state_dict(state)
    batches = ((part[None] for part in held_out[number]) for number in range(HELD_OUT))
    return evaluate(run, batches)


def test_the_loss_stands_beside_the_control_s(cache_folder):
    found = taken(recipe_at(2, attention=Folded, heads_per_kv=2), TRAINED)
    own = spread(uptrain.weights_with(TRAINED, 2).state, TINY.heads)
    assert found["held_out_loss"] == pytest.approx(loss_of(own), abs=1e-5)
    control = loss_of(uptrain.control(TRAINED).state)
    assert found["control_loss"] == pytest.approx(control, abs=1e-5)
    assert loss_of(base.weights_for(TRAINED).state) > control  # training goes on
    assert found["weights"]["kv_heads"] == 2
    assert found["weights"]["uptrain_steps"] == 2
    many = taken(recipe_at(2), TRAINED)
    assert many["control_loss"] is None
    assert "kv_heads" not in many["weights"]


def test_untrained_weights_are_pooled_and_no_loss_is_asked():
    found = taken(eager(10))
    assert found["held_out_loss"] is found["control_loss"] is None
    assert found["weights"] | {"trained": False, "uptrain_steps": 0} == found["weights"]
    (told,) = {metrics.shared([a_record(status="ok", measurement=found)])}
    assert told.endswith("averaged, not trained further (no loss is asked)")
    assert metrics.shared([a_record(status="failed", measurement={})]) == ""


def test_a_files_weights_are_pooled_and_not_trained(tmp_path):
    """The loss is then of averaging alone, and the control is the file's own."""
    path = tmp_path / "model.pt"
    torch.save(base.untrained(TINY).state, path)
    settings = replace(SETTINGS, weights=str(path))
    found = taken(eager(10), settings)
    many = taken(recipe_at(8, compile=False), settings)
    assert found["control_loss"] == pytest.approx(many["held_out_loss"], abs=2e-3)
    assert found["held_out_loss"] != found["control_loss"]
    assert metrics.shared([a_record(status="ok", measurement=found)]).endswith(
        "not trained further"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--uptrain-steps", "5", "--base-steps", "0"),
            "--uptrain-steps 5: only a base model that is trained here is trained further",
        ),
        (("--uptrain-steps", "5", "--weights", "/nowhere"), "see --base-steps"),
        (("--uptrain-steps", "-1"), "must be a whole number from 0 on"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, options, said):
    start = ["--ladder", "inference", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, *options])

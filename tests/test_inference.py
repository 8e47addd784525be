"""The inference ladder: the same logits at every rung, and each planted fault is found."""

import json
import math
import struct
import time
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import describe
from common.accelerator.onednn import packs_bfloat16
from common.cli import run as command
from common.engine.contract import Disturbed, DoesNotApply, NotEquivalent, NotInEffect, Numerics
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.measure import measure
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.gpt.weights import save
from common.workloads.generate import base
from common.workloads.generate.caches import Cache, Recomputed
from common.workloads.generate.check import SHAPE, check, coarse_state
from common.workloads.generate.linears import Linear, by_channel, from_groups, in_groups
from common.workloads.generate.metrics import METRICS
from common.workloads.generate.model import decode
from common.workloads.generate.published import from_published, read_safetensors
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import GenerateSession, build
from common.workloads.generate.settings import Settings
from common.workloads.generate.stream_session import StreamSession
from common.workloads.train.build import seed_parameters
from ladders.inference import LADDER, step15_static_batches
from ladders.inference.step01_kv_cache import Concatenated
from ladders.inference.step02_preallocated_cache import Preallocated
from ladders.inference.step04_sdpa import FusedAttention
from ladders.inference.step06_int8_weights import Int8
from ladders.inference.step07_int4_weights import Int4
from ladders.inference.step08_compiled_step import Fixed
from ladders.inference.step15_static_batches import Uneven
from tests.conftest import bfloat16_emulated, climb, width

CPU, HERE = torch.device("cpu"), replace(describe("cpu"), native_bf16=True)
NAIVE = GenerateRecipe()
TINY = Shape(layers=1, heads=4, emb_dim=32, context=32)
SETTINGS = Settings(shape=TINY, prompt_tokens=9, new_tokens=5, steps=2)
UNEVEN = next(rung.number for rung in LADDER.rungs if rung.module is step15_static_batches)
KEPT_CACHES = {1: Concatenated, 2: Preallocated, 8: Fixed, UNEVEN: Uneven}
PACKED = 5
PACKS = pytest.mark.skipif(not packs_bfloat16(), reason="torch packs no 16-bit weights here")
COMPILED = 8  # the last rung that computes the same model
COLUMNS = {metric.name: metric for metric in METRICS}


def recipe_at(number: int, **changes) -> GenerateRecipe:
    chain = [n for n in LADDER.chain(number) if n != PACKED or packs_bfloat16()]
    return replace(LADDER.compose(NAIVE, chain), **changes)


def checked(recipe: GenerateRecipe, below: GenerateRecipe, claim=Numerics.LOWER_PRECISION):
    return check(recipe, Against(baseline=NAIVE, below=below, numerics=claim), CPU)


def taken(recipe: GenerateRecipe, settings: Settings = SETTINGS, probe=lambda run: {}, **spoilt):
    """The measurement of a recipe, in this process; `spoilt`: methods put in place."""
    kind = type("Spoilt", (StreamSession if recipe.schedule else GenerateSession,), spoilt)
    return measure(lambda: kind(recipe, settings, CPU), settings, probe, lambda phase: None)


def seen_by(number: int, recipe: GenerateRecipe) -> str:
    """What the rung's probe sees of a session of the recipe."""
    rung = LADDER.rung(number)
    return taken(recipe, probe=lambda run: {"it": rung.in_effect(run)})["in_effect"]["it"]


def gpt(shape: Shape = SHAPE) -> GPT:
    model = GPT(shape, base.RECIPE, shape.vocab_size)
    seed_parameters(model, shape)
    return model


# -- the model --


def test_the_naive_model_is_the_gpt_that_trains():
    model, ids = gpt().double(), torch.randint(SHAPE.vocab_size, (2, 20))
    own, cache = build(
        replace(NAIVE, dtype=torch.float64, requests=2), SHAPE, gpt().state_dict(), 20, CPU
    )
    with torch.no_grad():
        due, found = model(ids), own(ids, cache, last=20)
    assert torch.allclose(found, due, rtol=1e-11, atol=1e-11)
    cache.rollback(0)
    assert torch.allclose(own(ids, cache), due[:, -1:], rtol=1e-11, atol=1e-11)


def test_the_head_reads_the_last_position_only():
    model, cache = build(NAIVE, SHAPE, coarse_state(), 20, CPU)
    shapes = []
    model.head.register_forward_pre_hook(lambda layer, given: shapes.append(given[0].shape))
    ids = torch.zeros(1, 7, dtype=torch.int64)
    assert model(ids, cache).shape == (1, 1, SHAPE.vocab_size)
    assert model(ids[:, :1], cache).shape == (1, 1, SHAPE.vocab_size)
    assert {shape[1] for shape in shapes} == {1}


@pytest.mark.parametrize("number", (1, 2, 4, 8))
def test_greedy_text_in_float32_is_that_of_the_naive_model(number):
    texts = []
    for recipe in (NAIVE, recipe_at(number, dtype=torch.float32, linear=NAIVE.linear)):
        model, cache = build(replace(recipe, compile=False), SHAPE, coarse_state(), 30, CPU)
        begun = model(torch.arange(10)[None], cache).argmax(-1)
        texts.append(decode(model, cache, begun, 20)[0])
        assert cache.length == 30
    assert torch.equal(*texts)


# -- caches --


@pytest.mark.parametrize("number", KEPT_CACHES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_cache_has_two_numbers_for_each_layer_token_and_column(number, dtype):
    recipe = recipe_at(number, dtype=dtype, linear=NAIVE.linear, requests=3, compile=False)
    assert recipe.cache is KEPT_CACHES[number]
    model, cache = build(recipe, SHAPE, coarse_state(), 12, CPU)
    model(torch.zeros(3, 12, dtype=torch.int64), cache)
    due = 2 * SHAPE.layers * 12 * SHAPE.emb_dim * dtype.itemsize * 3
    assert cache.nbytes == cache.reads(12) == due


def test_worked_examples_of_cache_bytes():
    """LADDERS.md: GPT-3 at 2,048 tokens in 16 bits; 48 layers of 32 x 128 at 1,024."""
    for layers, wide, tokens, due in (
        (96, 12_288, 2048, 9_663_676_416),
        (48, 4096, 1024, 805_306_368),
        (12, 768, 256, 9 * 2**20),  # as rung 1's lesson says
    ):
        shape = Shape(layers=layers, emb_dim=wide, context=tokens)
        assert Cache(shape, torch.bfloat16, 1, tokens, CPU).reads(tokens) == due


@pytest.mark.parametrize("kind", (Recomputed, *KEPT_CACHES.values()))
def test_a_cache_is_filled_to_its_last_slot_and_no_further(kind):
    model, cache = build(replace(NAIVE, cache=kind), SHAPE, coarse_state(), 8, CPU)
    ids = torch.zeros(1, 8, dtype=torch.int64)
    model(ids[:, :7], cache)
    model(ids[:, :1], cache)
    assert cache.length == 8
    with pytest.raises(IndexError, match="9 tokens: the cache has room for 8"):
        model(ids[:, :1], cache)
    assert cache.length == 8
    with pytest.raises(ValueError, match="9 tokens to keep, of 8"):
        cache.rollback(9)
    with pytest.raises(ValueError, match="33 slots: the model has 32 positions"):
        kind(SHAPE, torch.float32, 1, 33, CPU)


# -- formats --


def test_worked_example_of_symmetric_int8():
    codes, scales = by_channel(torch.tensor([[-0.5, 0.3, 1.2, -0.1], [0.0, 0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[-53, 32, 127, -11], [0, 0, 0, 0]]
    assert scales.tolist() == pytest.approx([1.2 / 127, 1.0])


@pytest.mark.parametrize("group", (32, 64, 128))
def test_int4_has_16_codes_a_group_and_comes_back_near(group):
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.25  # a group of one value
    codes, both = in_groups(weight, group, torch.bfloat16)
    assert (codes.min(), codes.max()) == (0, 15)
    assert both.shape == (256 // group, 16, 2)
    back = from_groups(codes, both, torch.float64)
    scales = both[..., 0].double().t().repeat_interleave(group, dim=1)
    assert ((back - weight).abs() <= 0.56 * scales + 1e-9).all()  # half a step, and bfloat16's
    assert torch.allclose(back[3], torch.tensor(0.25).double(), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "group", "bits"),
    ((Int8, 0, 8.125), (Int4, 32, 5.0), (Int4, 64, 4.5), (Int4, 128, 4.25)),
)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
@pytest.mark.parametrize("rows", (1, 5, 40))
def test_a_kernel_multiplies_by_its_own_dequantised_weight(kind, group, bits, dtype, rows):
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(100, 128, generator=generator), torch.randn(100)
    recipe = replace(NAIVE, linear=kind, group=group, dtype=dtype)
    layer, x = kind(weight, bias, recipe), torch.randn(2, rows, 128, generator=generator).to(dtype)
    due = x.double() @ kind.rounded(weight, recipe).double().T + bias.to(dtype).double()
    error = (layer(x).double() - due).norm() / due.norm()
    assert error < {torch.bfloat16: 4e-3, torch.float32: 1e-6}[dtype]
    assert {*dict(layer.named_buffers())} >= {"codes", "bias"}  # or state_dict loses them
    assert layer.state_dict().keys() == dict(layer.named_buffers()).keys()
    if kind is Int4 and dtype is torch.bfloat16:
        padded = 112  # a multiple of 16
        assert 8 * (layer.codes.nbytes + layer.both.nbytes) == bits * padded * 128
    elif dtype is torch.bfloat16:
        assert 8 * (layer.codes.nbytes + layer.scales.nbytes) == bits * 100 * 128


def test_a_width_that_no_group_divides_is_refused():
    with pytest.raises(DoesNotApply, match="32 inputs are not made of groups of 64"):
        Int4(torch.randn(16, 32), None, replace(recipe_at(7), group=64))


# -- the check --


def of_rung(number: int, *more, **named):
    return pytest.param(number, *more, marks=PACKS if number == PACKED else (), **named)


def recipes():
    """Every rung's recipe, or each of its candidates."""
    for number in range(COMPILED + 1):
        rung = LADDER.rung(number) if number else None
        offered = rung.candidates(HERE, recipe_at(rung.base)) if rung else {}
        for label, recipe in (offered or {"": recipe_at(number)}).items():
            yield of_rung(number, recipe, id=f"{number} {label}".strip())


@pytest.mark.parametrize(("number", "recipe"), [*recipes()])
def test_a_rung_has_the_logits_that_it_declares(number, recipe):
    recipe = replace(recipe, compile=False)
    below = recipe_at(LADDER.rung(number).base if number else 0)
    found = checked(recipe, below, LADDER.numerics(number))
    assert (
        found.error < {"float32": 1e-6, "bfloat16": 1e-2, "int8": 2e-2, "int4": 2e-1}[recipe.format]
    )
    assert found.rounded_error < 1e-2
    assert found.float32_error < 1e-6


class KeepsTheOldPrompt(Preallocated):
    """Never overwrites its first slot."""

    def extend(self, layer, key, value, positions):
        before = self.keys[layer, :, :, :1].clone()
        found = super().extend(layer, key, value, positions)
        if before.any():
            self.keys[layer, :, :, :1] = before
        return found


class RollsBackTooFar(Preallocated):
    def rollback(self, length):
        super().rollback(max(0, length - 1))


class RollsBackTooLittle(Concatenated):
    """The length is right, but what was kept stays."""

    def rollback(self, length):
        Cache.rollback(self, length)

    def seen(self, positions):
        kept = self.kept[0][0].shape[2] + len(positions)
        return torch.ones(len(positions), kept, dtype=bool) if len(positions) > 1 else None


class SeesTheNextToken(Preallocated):
    def seen(self, positions):
        return super().seen(positions + 1 if len(positions) > 1 else positions)


class DoesNotSeeItself(Fixed):
    def seen(self, positions):
        return self.places < positions.clamp(min=1)[:, None]


class SeesAnEmptySlot(Fixed):
    def seen(self, positions):
        return super().seen(positions + 1)


class WithoutOffset(Preallocated):
    """Each chunk begins at position 0 again."""

    def begin(self, ids):
        ids, positions = super().begin(ids)
        return ids, positions - positions[0] if len(positions) > 1 else positions


class Overflows(Fixed):
    """The last slot is written again and again."""

    def begin(self, ids):
        self.length = min(self.length, self.capacity - ids.shape[1])
        return super().begin(ids)


class AlwaysCausal(FusedAttention):
    """The triangle is lined up with the first key."""

    def attend(self, query, key, value, seen):
        causal = query.shape[-2] > 1
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


class WithoutScale(Int8):
    def multiply(self, rows):
        return torch.ops.aten._weight_int8pack_mm(
            rows, self.codes, torch.full_like(self.scales, self.scales.mean())
        )


class WithoutBias(Int8):
    def forward(self, x):
        rows = x.flatten(0, -2)
        return self.multiply(rows).unflatten(0, x.shape[:-1])


class OtherGroups(Int4):
    """Scales of another group than the codes are in."""

    def multiply(self, rows):
        both = self.both.roll(1, dims=0)
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        return kernel(rows, self.codes, self.group, both)[:, : self.outputs]


FAULTS = {
    KeepsTheOldPrompt: (2, "cache"),
    RollsBackTooFar: (2, "cache"),
    RollsBackTooLittle: (2, "cache"),
    SeesTheNextToken: (4, "cache"),
    DoesNotSeeItself: (4, "cache"),
    SeesAnEmptySlot: (4, "cache"),
    WithoutOffset: (7, "cache"),
    Overflows: (4, "cache"),
    AlwaysCausal: (4, "attention"),
    WithoutScale: (6, "linear"),
    WithoutBias: (6, "linear"),
    OtherGroups: (7, "linear"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_found(fault):
    number, field = FAULTS[fault]
    below = recipe_at(number - 1)
    with pytest.raises(NotEquivalent):
        checked(recipe_at(number, **{field: fault}), below)


def test_what_a_rung_does_not_declare_is_found():
    with pytest.raises(NotEquivalent, match="declared rounding, but it computes in int8"):
        checked(recipe_at(6), recipe_at(5), Numerics.ROUNDING)
    with pytest.raises(NotEquivalent, match="declared exact"):
        checked(recipe_at(3), recipe_at(2), Numerics.EXACT)


# -- a session --


def test_a_step_is_the_same_tokens_after_the_same_prompt():
    found = taken(recipe_at(2))
    assert found["tokens_per_step"] == 5
    assert len(found["decoded"]) == 5
    assert found["cache_bytes"] == 2 * TINY.layers * 14 * TINY.emb_dim * 4
    assert found["decoded"] == taken(NAIVE)["decoded"]
    assert taken(NAIVE)["cache_bytes"] == 0
    assert found["held_out_loss"] is None  # untrained
    assert found["acceptance"] is None


def test_bytes_are_counted():
    vocabulary, wide = TINY.vocab_size, TINY.emb_dim
    found = taken(recipe_at(4))
    held = 12 * wide**2 + 12 * wide + 2 * vocabulary * wide + TINY.context * wide
    assert found["weight_bytes"] == 2 * held
    read = held - (vocabulary - 1 + TINY.context - 1) * wide
    cache = 2 * TINY.layers * wide * (10 + 14) / 2  # from 10 to 14 tokens are seen
    assert found["read_bytes"] == 2 * (read + cache)


def test_the_prompts_time_is_apart():
    """A slow prompt moves time to first token, and no step."""

    def slowly(session):
        time.sleep(0.3)
        return GenerateSession.prefill(session)

    found = taken(recipe_at(2), prefill=slowly)
    assert found["ttft_s"] > 0.3
    assert max(found["step_s"]) < 0.3 < found["startup_s"]


class Forgetful(Preallocated):
    """Loses the prompt at a rollback."""

    def rollback(self, length):
        super().rollback(length)
        self.keys.zero_()


def test_a_session_that_forgets_its_prompt_is_void():
    with pytest.raises(Disturbed, match="the last step's logits differ from the first one's"):
        taken(recipe_at(2, cache=Forgetful))


class Random(Preallocated):
    def extend(self, layer, key, value, positions):
        return super().extend(layer, key, 1e3 * torch.randn_like(value), positions)


def test_a_session_that_says_something_else_each_time_is_void():
    with pytest.raises(Disturbed, match="steps decoded other tokens"):
        taken(recipe_at(2, cache=Random))


def test_a_session_that_decodes_less_is_void():
    def half(session):
        tokens, session.last = decode(session.run.model, session.run.cache, session.begun, 2)
        session.decoded.append(tokens)
        session.lengths.append(session.run.cache.length)
        session.run.cache.rollback(9)

    with pytest.raises(Disturbed, match=r"steps ended at \[11\] tokens instead of 14"):
        taken(recipe_at(2), step=half)


class Silent(Int8):
    """Falls back, and says nothing."""

    def multiply(self, rows):
        return self.many(rows)


class SilentHead(Int8):
    """The same of the largest matrix only."""

    def multiply(self, rows):
        return self.many(rows) if self.outputs > 10_000 else super().multiply(rows)


class Unfused(FusedAttention):
    """torch's own way back to separate operators."""

    def attend(self, query, key, value, seen):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return super().attend(query, key, value, seen)


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (1, {"cache": Recomputed}, "up to 14 tokens ran for a new one"),
        (2, {"cache": Concatenated}, "keys and values were copied"),
        (3, {"dtype": torch.float32}, "torch.float32"),
        (4, {"attention": Unfused}, "the unfused path was taken"),
        of_rung(PACKED, {"linear": Linear}, "0 of 25 products took packed weights"),
        (6, {"linear": Silent}, "0 of 25 products"),
        (6, {"linear": SilentHead}, "20 of 25 products"),
        (8, {"compile": False}, "0 graphs were compiled"),
    ],
)
def test_a_rung_that_does_not_act_is_not_in_effect(number, changes, said):
    forget_graphs()  # those of tests before this one
    with pytest.raises(NotInEffect, match=said):
        seen_by(number, recipe_at(number, **changes))


@pytest.mark.parametrize("number", map(of_rung, range(1, COMPILED)))
def test_a_rung_that_acts_is_seen(number):
    assert seen_by(number, recipe_at(number))


# -- the base model --


def base_settings(**changes) -> Settings:
    return replace(SETTINGS, base_steps=3, **changes)


def test_the_base_model_is_trained_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "EVERY_S", 0.0)
    said = []
    found = base.weights_for(base_settings(), said.append)
    assert [line.split(",")[0] for line in said] == [
        f"base model: step {n} of 3" for n in (1, 2, 3)
    ]
    assert all("s left" in line for line in said)
    assert found.trained
    (kept,) = tmp_path.glob("base-*.pt")
    again = base.weights_for(base_settings(), said.append)
    assert len(said) == 3
    assert again.told == found.told
    assert all(torch.equal(again.state[name], p) for name, p in found.state.items())
    whole = kept.read_bytes()
    for damage in (b"", b"abc", whole[:1000], whole[:-9] + b"\0" * 9):
        kept.write_bytes(damage)
        assert base.read_base(kept, TINY) is None
    base.weights_for(base_settings(), said.append)
    assert len(said) == 6
    assert base.read_base(kept, TINY) is not None


def test_another_base_model_has_another_name():
    names = {
        base.base_path(settings)
        for settings in (
            base_settings(),
            replace(base_settings(), base_steps=4),
            base_settings(shape=replace(TINY, layers=2)),
        )
    }
    assert len(names) == 3
    assert base.base_path(base_settings(prompt_tokens=7)) in names  # it is not trained for that


def test_a_trained_model_has_a_held_out_loss():
    found = taken(recipe_at(2), base_settings())
    assert 9 < found["held_out_loss"] < 11.5
    assert found["weights"]["source"] == "a base model, trained for 3 steps of 4 windows"


# -- weights of a file --


def published(state: dict, shape: Shape, biases: bool = False, prefix: str = "") -> dict:
    """A state of our GPT under GPT-2's names, as transformers saves it."""
    found = {
        "wte.weight": state["token_embedding.weight"],
        "wpe.weight": state["position_embedding.weight"],
        "ln_f.weight": state["final_norm.weight"],
        "ln_f.bias": state["final_norm.bias"],
    }
    for layer in range(shape.layers):
        own, h = f"blocks.{layer}", f"h.{layer}"
        qkv = [state[f"{own}.attention.W_{part}.weight"] for part in ("query", "key", "value")]
        found[f"{h}.attn.c_attn.weight"] = torch.cat(qkv).t().contiguous()
        found[f"{h}.attn.c_attn.bias"] = torch.full((3 * shape.emb_dim,), 0.1 * biases)
        found[f"{h}.attn.bias"] = torch.ones(1, 1, shape.context, shape.context)
        for theirs, ours in (
            ("attn.c_proj", "attention.out_proj"),
            ("mlp.c_fc", "feed_forward.expand"),
            ("mlp.c_proj", "feed_forward.contract"),
        ):
            found[f"{h}.{theirs}.weight"] = state[f"{own}.{ours}.weight"].t().contiguous()
            found[f"{h}.{theirs}.bias"] = state[f"{own}.{ours}.bias"]
        for theirs, ours in (("ln_1", "norm1"), ("ln_2", "norm2")):
            for part in ("weight", "bias"):
                found[f"{h}.{theirs}.{part}"] = state[f"{own}.{ours}.{part}"]
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def write_safetensors(path, tensors: dict) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        offsets = [at, at + tensor.nbytes]
        told = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        header[name], at = told, offsets[1]
    packed = json.dumps(header).encode()
    numbers = (t.contiguous().reshape(-1).view(torch.uint8).numpy() for t in tensors.values())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(packed)) + packed)
        for part in numbers:
            file.write(part.tobytes())


@pytest.mark.parametrize("prefix", ("", "transformer."))
def test_published_weights_are_read(tmp_path, prefix):
    model = gpt()
    model.head.weight = model.token_embedding.weight
    path = tmp_path / "model.safetensors"
    write_safetensors(path, published(model.state_dict(), SHAPE, prefix=prefix))
    state = base.read_weights(path, SHAPE)
    own, cache = build(NAIVE, SHAPE, state, 12, CPU)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(own(ids, cache, last=12), model(ids), rtol=1e-4, atol=1e-4)


def test_published_biases_of_query_key_and_value_count():
    """This project's GPT has none; with them the logits are those of GPT-2's formula."""
    state = from_published(published(gpt().state_dict(), SHAPE, biases=True))
    found = {}
    for name, given in (
        ("with", state),
        ("without", from_published(published(gpt().state_dict(), SHAPE))),
    ):
        model, cache = build(NAIVE, SHAPE, base.fitting(given, SHAPE), 12, CPU)
        found[name] = model(torch.arange(12)[None], cache)
    assert not torch.allclose(found["with"], found["without"], rtol=1e-3)
    attention = model.blocks[0].attention
    x = torch.randn(1, 3, SHAPE.emb_dim)
    weight = state["blocks.0.attention.W_query.weight"].float()
    due = x @ weight.t() + 0.1
    attention = build(NAIVE, SHAPE, base.fitting(state, SHAPE), 12, CPU)[0].blocks[0].attention
    assert torch.allclose(attention.qkv(x)[..., : SHAPE.emb_dim], due, atol=1e-5)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_safetensors_are_read_without_their_library(tmp_path, dtype):
    tensors = {
        "a": torch.randn(3, 5).to(dtype),
        "odd": torch.randn(1).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
        "ids": torch.arange(3),
        "b": torch.randn(2, 2, 2),
    }
    write_safetensors(tmp_path / "x.safetensors", tensors)
    found = read_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == {"a", "odd", "empty", "b"}
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    assert found["a"].dtype is dtype


def test_a_checkpoint_of_the_scripts_is_read(tmp_path):
    model = gpt()
    save(model, SHAPE, tmp_path / "model.pt")
    state = base.read_weights(tmp_path / "model.pt", SHAPE)
    assert all(torch.equal(state[name], p) for name, p in model.state_dict().items())


def spoil(content: bytes, how: str) -> bytes:
    length = int.from_bytes(content[:8], "little")
    return {
        "cut": content[:-100],
        "empty": b"",
        "short": content[:5],
        "header": content[:8] + b"{" * length + content[8 + length :],
        "length": struct.pack("<Q", 2**60) + content[8:],
        "list": struct.pack("<Q", 2) + b"[]",
        "no dtype": struct.pack("<Q", 10) + b'{"a": {}} ',
    }[how]


@pytest.mark.parametrize("how", ("cut", "empty", "short", "header", "length", "list", "no dtype"))
def test_a_damaged_file_is_a_sentence(tmp_path, how):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, published(gpt().state_dict(), SHAPE))
    path.write_bytes(spoil(path.read_bytes(), how))
    with pytest.raises(UserError, match=r"--weights .*: no checkpoint and no safetensors") as told:
        base.read_weights(path, SHAPE)
    assert "\n" not in str(told.value)
    other = path.with_suffix(".pt")
    other.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="no checkpoint and no safetensors"):
        base.read_weights(other, SHAPE)


def test_weights_of_another_shape_are_a_sentence(tmp_path):
    state, path = gpt().state_dict(), tmp_path / "model.pt"
    torch.save(state, path)
    read = partial(base.read_weights, path)
    with pytest.raises(UserError, match="token_embedding.weight is 1009 x 128, and 1009 x 64 is"):
        read(replace(SHAPE, emb_dim=64))
    with pytest.raises(UserError, match="there is no blocks.2.attention.W_key.weight for 3 layers"):
        read(replace(SHAPE, layers=3))
    with pytest.raises(UserError, match="there is a blocks.1.attention.W_key.weight for 1 layers"):
        read(replace(SHAPE, layers=1))
    torch.save({"x": 1}, path)
    with pytest.raises(UserError, match="--weights"):
        read(SHAPE)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="--weights"):
        read(SHAPE)
    with pytest.raises(UserError, match=r"h\.0\.strange\.weight is no parameter of GPT-2"):
        from_published({"h.0.strange.weight": torch.ones(1)})


# -- measured --


@pytest.fixture(scope="session")
def inference_ladder(tmp_path_factory):
    """Some rungs at the tiny preset, measured once: the last stands on all of the first eight.

    All that they stand on apply.
    """
    out = tmp_path_factory.mktemp("inference-ladder")
    small = ("--preset", "tiny", "--base-steps", "2", "--rounds", "1", "--only", "0,1,6,8,10")
    start = ("--ladder", "inference", *small)
    with bfloat16_emulated():
        return out, climb(*start, "--json", "--out", str(out), ceilings=True)


def test_rungs_are_measured(inference_ladder):
    out, done = inference_ladder
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(out / "ladder.csv")
    assert table.status.tolist() == ["ok"] * 5
    assert {"tok_per_s", "ttft_ms", "ms_per_token", "cache_bytes", "weight_bytes"} <= {*table}
    assert {"of_bandwidth", "compile_s", "acceptance"} <= {*table}
    assert table.ttft_ms.notna().all()
    assert table.compile_s.notna().tolist() == [False, False, False, True, True]
    assert table.acceptance.isna().all()
    shape = Shape(layers=2, heads=2, emb_dim=32, context=64)
    tokens = 2 * shape.layers * 48 * shape.emb_dim
    assert table.cache_bytes.tolist() == [0, 4 * tokens, 2 * tokens, 2 * tokens, tokens]
    assert table.weight_bytes.is_monotonic_decreasing
    losses = table.held_out_loss
    assert losses.notna().all()
    assert max(losses) - min(losses) < 0.1
    assert table.control_loss.notna().tolist() == [False] * 4 + [True]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_records_tell_what_was_generated_from(inference_ladder):
    out, done = inference_ladder
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert {r["measurement"]["tokens_per_step"] for r in records} == {16}
    assert {r["measurement"]["weights"]["steps"] for r in records} == {2}
    (compiled,) = (r for r in records if r["rung"] == COMPILED)
    assert compiled["format"] == "int4"
    assert {"3", "4", "7", "8"} <= compiled["measurement"]["in_effect"].keys()
    page = (out / "ladder.md").read_text()
    assert "prompt 32, 16 new tokens, 1 request" in page
    assert "Weights: a base model, trained for 2 steps" in page
    assert "base model: step 2 of 2" in done.stderr
    assert width(done.stdout) <= 80


# -- mistakes --


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prompt-tokens", "64"), "--prompt-tokens 64: leaves no room for an answer"),
        (("--prompt-tokens", "60", "--new-tokens", "5"), "--new-tokens 5: with a prompt of 60"),
        (("--new-tokens", "64"), "at most 63"),
        (("--prompt-tokens", "0"), "must be a whole number from 1 on"),
        (("--weights", "/nowhere"), "--weights /nowhere: no such file"),
        (("--weights", "/nowhere", "--base-steps", "3"), "--base-steps: without --weights"),
        (("--base-steps", "-1"), "must be a whole number from 0 on"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, options, said):
    start = ["--ladder", "inference", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, *options])


# -- what is shown --


def record(**changes) -> dict:
    one = {"step_s": [0.5, 0.4, 0.6], "first_step_s": 8.5, "ttft_s": 0.2, "read_bytes": 5e6}
    return {
        "measurement": one | {"tokens_per_step": 64} | changes.pop("measurement", {}),
        "settings": {"new_tokens": 32},
        "recipe": {"compile": True},
        "ceilings": {"read": 1e9},
        "equivalence": {},
    } | changes


def test_columns_are_of_a_token_and_of_its_bytes():
    of = {name: COLUMNS[name].of for name in ("tok_per_s", "ms_per_token", "ttft_ms")}
    assert [of[name](record()) for name in of] == [128, 15.625, 200]
    assert COLUMNS["compile_s"].of(record()) == 8.0
    assert COLUMNS["compile_s"].of(record(recipe={"compile": False})) is None
    assert COLUMNS["of_bandwidth"].of(record()) == pytest.approx(5e6 / 0.015625 / 1e9)
    assert COLUMNS["of_bandwidth"].of(record(ceilings={})) is None
    beaten = record(ceilings={"read": 1e8})
    assert COLUMNS["of_bandwidth"].of(beaten) is None
    assert math.isclose(COLUMNS["cache_bytes"].scale, 2**20)

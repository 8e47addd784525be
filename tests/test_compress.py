"""What the compress ladder is made of: grids, files, formats, GPTQ, the knapsack, masks, texts."""

import itertools
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.accelerator.onednn import packs_bfloat16
from common.engine.contract import DoesNotApply
from common.engine.errors import UserError
from common.engine.records import Records
from common.gpt.text import Windows, read_text, read_tokens, split
from common.workloads.compress import base as bases
from common.workloads.compress import files, integers, sensitivity
from common.workloads.compress.calibration import Inputs, Statistics, inverse_factor
from common.workloads.compress.check import SHAPE, small_base
from common.workloads.compress.compressing import made
from common.workloads.compress.formats import Plain
from common.workloads.compress.grids import Grid, even, pack, symmetric, unpack
from common.workloads.compress.integers import Int4, Int8Both
from common.workloads.compress.knapsack import cheapest
from common.workloads.compress.lottery import Redrawn, Scattered, Ticket
from common.workloads.compress.model import Cache, built, file_of, of_parts
from common.workloads.compress.parts import EMBEDDING, HEAD, parts_of
from common.workloads.compress.plot_pareto import front, pareto_figure
from common.workloads.compress.quality import compare, held_out, paired
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.settings import Settings
from common.workloads.compress.sparse import Masked, TwoFour, largest
from common.workloads.compress.training import model_of, started, state_of, train
from common.workloads.generate.published import read_safetensors
from ladders.compress.step02_int8_per_tensor import PerTensor
from ladders.compress.step03_int8_asymmetric import Asymmetric
from ladders.compress.step04_int8_per_channel import PerChannel
from ladders.compress.step06_int8_activations import BothPerChannel
from ladders.compress.step07_smoothquant import Smoothed
from ladders.compress.step08_gptq import DAMPING, GPTQ
from ladders.compress.step09_awq import ActivationAware
from ladders.compress.step10_qat import Longer, Rounded, straight_through
from ladders.compress.step11_mixed_precision import FORMATS
from ladders.compress.step13_heads_and_neurons import Smaller
from ladders.compress.step14_taylor import change
from tests.conftest import PROJECT

HALF = torch.bfloat16
IN_HALF = CompressRecipe(dtype=HALF)
SETTINGS = Settings(shape=SHAPE, base_steps=4, tune_steps=2)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_parts():
    base = small_base()
    return parts_of(base.state, base.shape.heads)


# -- grids --


def test_worked_example_of_symmetric_int8():
    weight = torch.tensor([[-0.5, 0.3, 1.2, -0.1]], dtype=torch.float64)
    grid = PerTensor.fit(weight, IN_HALF)
    assert grid.scale.item() == pytest.approx(1.2 / 127)
    assert grid.codes(weight).tolist() == [[-53, 32, 127, -11]]


def test_worked_example_of_asymmetric_int8():
    """The book has 254 for the largest: it had rounded the scale before."""
    weight = torch.tensor([[-0.5, 0.3, 1.2, -0.1]], dtype=torch.float64)
    grid = Asymmetric.fit(weight, IN_HALF)
    assert grid.scale.item() == pytest.approx(1.7 / 255)
    assert grid.centre.item() == 75
    assert grid.codes(weight).tolist() == [[0, 120, 255, 60]]
    values = grid.values(grid.codes(weight))
    assert torch.equal(values, grid.scale * (grid.codes(weight) - 75))
    assert (values - weight).abs().max() <= grid.scale / 2
    assert grid.values(torch.full((1, 4), 75.0)).tolist() == [[0.0] * 4]  # 0 is kept


@pytest.mark.parametrize("kind", (PerTensor, Asymmetric, PerChannel, Int4))
def test_a_weight_takes_its_nearest_code_and_no_other(kind):
    """Against the definition, number by number, in float64."""
    weight = numbers(7, 64).double()
    weight[3] = 0.25  # a row of one value
    grid = kind.fit(weight, replace(IN_HALF, group=32)).stored()
    columns = 64 // grid.scale.shape[1]
    codes = range(grid.least, grid.most + 1)
    for row, column in itertools.product(range(7), range(0, 64, 5)):
        place = min(row, len(grid.scale) - 1), column // columns
        scale, centre, offset = (part[place].item() for part in grid.parts(torch.float64))
        each = [scale * (code - centre) + offset for code in codes]
        nearest = min(each, key=lambda value: abs(value - weight[row, column].item()))
        found = grid.values(grid.codes(weight))[row, column].item()
        assert abs(found - nearest) < 1e-12


def test_one_value_is_no_division_by_zero():
    zeros = torch.zeros(4, 64)
    for kind in (PerTensor, Asymmetric, PerChannel, Int4):
        tensors = kind.store(zeros, IN_HALF, None)
        assert torch.equal(kind.dense(tensors), zeros.double())
    assert even(torch.zeros(1), torch.zeros(1), 16).item() == 1
    same = torch.full((2, 64), 0.375)
    assert torch.equal(Int4.dense(Int4.store(same, IN_HALF, None)), same.double())


@pytest.mark.parametrize("bits", (1, 2, 3, 4, 8))
@pytest.mark.parametrize("shape", ((5,), (3, 7), (2, 3, 4)))
def test_codes_are_packed_and_come_back(bits, shape):
    codes = torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(bits))
    packed = pack(codes, bits)
    assert packed.numel() == math.ceil(codes.numel() * bits / 8)
    assert torch.equal(unpack(packed, bits, shape), codes.to(torch.uint8))


@pytest.mark.parametrize(
    ("group", "bits", "due"),
    ((32, 4, 5.0), (64, 4, 4.5), (128, 4, 4.25), (32, 3, 4.0), (32, 2, 3.0)),
)
def test_bits_of_a_weight_are_counted_with_scales(group, bits, due):
    recipe = replace(IN_HALF, format=Int4, group=group, bits=bits)
    tensors = Int4.store(numbers(48, 256), recipe, None)
    tensors.pop("shape")
    assert 8 * sum(tensor.nbytes for tensor in tensors.values()) / (48 * 256) == due


def test_worked_examples_of_mixed_bits():
    """LADDERS.md: 8-bit attention, 4-bit feed-forward, 16-bit head, of GPT-2 124M."""
    attention, feed_forward, blocks = 4 * 768**2, 8 * 768**2, 12
    of_block = (8 * attention + 4 * feed_forward) / (attention + feed_forward)
    assert of_block == pytest.approx(5.33, abs=5e-3)
    head, block = 50_257 * 768, attention + feed_forward
    whole = (blocks * block * of_block + 16 * head) / (blocks * block + head)
    assert whole == pytest.approx(8.67, abs=5e-3)


# -- files --


def test_a_file_is_safetensors_to_the_byte(tmp_path):
    tensors = {
        "a": numbers(3, 5),
        "b": torch.arange(7, dtype=torch.uint8),
        "c": numbers(2).to(HALF),
    }
    path = tmp_path / "x.safetensors"
    size = files.write(path, tensors, {"heads": "2"})
    whole = path.read_bytes()
    assert len(whole) == size == files.file_bytes(tensors, {"heads": "2"})
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    assert length % 8 == 0
    assert header["a"] == {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}
    assert header["c"] == {"dtype": "BF16", "shape": [2], "data_offsets": [67, 71]}
    assert size == 8 + length + 60 + 7 + 4
    found, metadata = files.read(path)
    assert metadata == {"heads": "2"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(read_safetensors(path)["a"], tensors["a"])


@pytest.mark.parametrize(
    "damage", (lambda b: b[:-1], lambda b: b[:-3] + b"\0\0\1", lambda b: b[:5])
)
def test_a_damaged_file_is_noticed(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    files.write(path, {"a": numbers(3, 5)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError):
        files.read(path)
    assert bases.read_base(path) is None


def test_a_tied_head_is_counted_once():
    parts = small_parts()
    assert HEAD not in parts.matrices
    tensors, metadata = file_of(parts, dict.fromkeys(parts.matrices, IN_HALF), lambda name: None)
    wide, vocabulary = SHAPE.emb_dim, SHAPE.vocab_size
    matrices = vocabulary * wide + SHAPE.layers * 12 * wide**2
    plain = (SHAPE.context + 2) * wide + SHAPE.layers * (4 + 1 + 4 + 1) * wide
    assert sum(tensor.nbytes for tensor in tensors.values()) == 2 * (matrices + plain)
    state = small_base().state
    untied = parts_of(state | {"head.weight": state["head.weight"] + 1}, SHAPE.heads)
    assert HEAD in untied.matrices
    model = built(tensors, metadata, torch.float32, "cpu")
    assert model.head is model.embedding


@pytest.mark.parametrize("kind", (Plain, PerChannel, Int4))
def test_an_untied_embedding_is_looked_up_and_multiplies_nothing(kind):
    state = small_base().state
    parts = parts_of(state | {"head.weight": 2 * state["head.weight"]}, SHAPE.heads)
    recipe, ids = replace(IN_HALF, format=kind), torch.arange(9)[None]
    maker = Statistics(parts, small_base().calibration).maker
    assert maker(EMBEDDING) is None
    assert maker(HEAD)().gram.shape == (SHAPE.emb_dim, SHAPE.emb_dim)
    file = file_of(parts, dict.fromkeys(parts.matrices, recipe), maker)
    own, due = (built(*file, HALF, "cpu", exact=exact)(ids) for exact in (False, True))
    assert relative(own, due) < 3e-2
    model = built(*file, HALF, "cpu")
    assert model.head is not model.embedding
    if kind is Int4:
        assert model.embedding.codes is None
        assert model.head.table is None
    if kind is Plain:
        assert model.embedding.packed is None
        assert (model.head.packed is None, model.head.weight is None) == (not PACKS, PACKS)


def test_biases_of_query_key_and_value_are_kept():
    base = small_base()
    biases = {
        f"blocks.{layer}.attention.{name}.bias": torch.full((SHAPE.emb_dim,), 0.1)
        for layer in range(SHAPE.layers)
        for name in ("W_query", "W_key", "W_value")
    }
    parts = parts_of(base.state | biases, SHAPE.heads)
    ids = torch.arange(9)[None]
    due = of_parts(parts)(ids)
    assert not torch.allclose(due, of_parts(small_parts())(ids), atol=1e-3)
    by = 1 + numbers(SHAPE.emb_dim).abs()
    scaled = parts.scaled("blocks.0.out_proj", by).scaled("blocks.1.qkv", by)
    assert torch.allclose(of_parts(scaled)(ids), due, atol=1e-4)
    with pytest.raises(DoesNotApply, match="biases of query, key, and value"):
        model_of(base.state | biases, SHAPE)


# -- the model --


def test_the_model_of_the_parts_is_the_gpt_that_trains():
    base, ids = small_base(), torch.randint(SHAPE.vocab_size, (2, 20))
    with torch.no_grad():
        due = model_of(base.state, SHAPE)(ids)
    assert torch.allclose(of_parts(small_parts())(ids), due, rtol=1e-4, atol=1e-4)


def test_a_cache_gives_the_same_logits():
    model, ids = of_parts(small_parts()), torch.randint(SHAPE.vocab_size, (1, 20))
    cache, due = Cache(model, 1, 20), model(ids)
    found = [model(ids[:, :7], cache), *(model(ids[:, n : n + 1], cache) for n in range(7, 20))]
    assert torch.allclose(torch.cat(found, dim=1), due, atol=1e-4)
    cache.length = 3
    assert torch.allclose(model(ids[:, 3:9], cache, last=1), due[:, 8:9], atol=1e-4)


# -- formats --

PACKS = packs_bfloat16()
KINDS = (Plain, PerTensor, Asymmetric, PerChannel, Int4, Masked, TwoFour)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", (torch.float32, HALF))
@pytest.mark.parametrize("rows", (1, 5, 40))
def test_a_kernel_multiplies_by_what_its_tensors_stand_for(kind, dtype, rows):
    weight, bias = numbers(100, 128), numbers(100, seed=1)
    recipe = replace(IN_HALF, format=kind, sparsity=0.5)
    tensors = kind.store(weight, recipe, None)
    layer, x = kind(tensors, bias, dtype, True), numbers(2, rows, 128, seed=2).to(dtype)
    due = x.double() @ kind.dense(tensors).T + bias.to(dtype).double()
    assert relative(layer(x), due) < {HALF: 5e-3, torch.float32: 1e-6}[dtype]
    ids = torch.tensor([[0, 5, 99]])
    assert relative(layer.rows(ids), kind.dense(tensors)[ids]) < {HALF: 4e-3}.get(dtype, 1e-6)
    assert layer.state_dict().keys() == dict(layer.named_buffers()).keys()


def relative(own: torch.Tensor, due: torch.Tensor) -> float:
    return ((own.double() - due).norm() / due.norm()).item()


@pytest.mark.parametrize("bits", (2, 3, 4))
def test_fewer_bits_run_in_the_same_kernel(bits):
    recipe = replace(IN_HALF, format=Int4, bits=bits, group=64)
    tensors = Int4.store(numbers(100, 128), recipe, None)
    layer, x = Int4(tensors, None, HALF), numbers(3, 128, seed=2).to(HALF)
    assert layer.operator == "aten::_weight_int4pack_mm_for_cpu"
    grid, codes = Int4.grid(tensors)
    assert (codes.min(), codes.max(), grid.most) == (0, 2**bits - 1, 2**bits - 1)
    assert relative(layer(x), x.double() @ Int4.dense(tensors).T) < 5e-3


@pytest.mark.parametrize("kind", (PerChannel, Int4))
def test_without_a_kernel_it_is_dequantised(kind, monkeypatch):
    monkeypatch.setattr("common.workloads.compress.integers.runs", lambda *given: False)
    tensors = kind.store(numbers(100, 128), IN_HALF, None)
    layer, x = kind(tensors, None, HALF), numbers(3, 128, seed=2).to(HALF)
    assert layer.operator is None
    assert relative(layer(x), x.double() @ kind.dense(tensors).T) < 5e-3


def test_integer_products_are_those_of_rounded_inputs():
    """Against float64 by hand: both sides rounded, and nothing else."""
    weight, x = numbers(48, 64), numbers(20, 64, seed=3)
    inputs = Inputs(x.abs().amax(0), x.abs().mean(0), x.T @ x)
    tensors = BothPerChannel.store(weight, IN_HALF, lambda: inputs)
    scale = tensors["input_scale"]
    assert scale.item() == pytest.approx((x.abs().max() / 127).item())
    layer = BothPerChannel(tensors, None, torch.float32)
    codes = (x.double() / scale.double()).round().clamp(-127, 127)
    due = (codes * scale.double()) @ PerChannel.dense(tensors).T
    assert relative(layer(x), due) < 1e-6
    assert relative(layer(x), x.double() @ weight.double().T) < 2e-2
    larger = layer(2 * x)  # than calibration saw: cut
    assert relative(larger, 2 * due) > 0.05
    assert issubclass(BothPerChannel, Int8Both)


@pytest.mark.parametrize("multiplies", (True, False))
def test_sums_of_the_largest_integers_are_not_cut(multiplies, monkeypatch):
    """x86 without VNNI adds two products in 16 bits: there, another kernel is taken."""
    fast = multiplies and integers.multiplies_int8()
    monkeypatch.setattr(integers, "multiplies_int8", lambda: fast)
    weight, x = torch.full((48, 64), 0.5), torch.full((20, 64), 2.0)
    inputs = Inputs(x.amax(0), x.mean(0), x.T @ x)
    layer = BothPerChannel(BothPerChannel.store(weight, IN_HALF, lambda: inputs), None, HALF)
    assert (layer.operator == "onednn::qlinear_pointwise") == fast
    for rows in (x, x[:1]):
        assert relative(layer(rows), rows.double() @ weight.double().T) < 5e-3


def test_two_of_four_are_kept_and_they_are_the_largest():
    weight = numbers(16, 64)
    tensors = TwoFour.store(weight, replace(IN_HALF, format=TwoFour), None)
    fours = TwoFour.dense(tensors).unflatten(1, (-1, 4))
    assert ((fours != 0).sum(-1) == 2).all()
    dropped = weight.unflatten(1, (-1, 4)).abs().masked_fill(fours != 0, 0).amax(-1)
    assert (dropped <= fours.abs().masked_fill(fours == 0, 9).amin(-1) * 1.01).all()
    assert 8 * sum(t.nbytes for t in tensors.values()) / weight.numel() == 9  # 1.78 times smaller


# -- scales that are moved --


def moved(name: str, kind, recipe=IN_HALF):
    parts = small_parts()
    scaled = kind.scaled(parts, Statistics(parts, small_base().calibration).maker, recipe)
    changed = not torch.equal(parts.matrices[name], scaled.matrices[name])
    return parts, scaled, changed


@pytest.mark.parametrize("kind", (Smoothed, ActivationAware))
def test_scaling_is_exact_before_rounding(kind):
    parts, scaled, changed = moved("blocks.0.qkv", kind, replace(IN_HALF, format=Int4))
    assert changed
    assert torch.equal(parts.matrices[EMBEDDING], scaled.matrices[EMBEDDING])
    ids = torch.randint(SHAPE.vocab_size, (1, 20))
    due, found = (of_parts(one)(ids).double() for one in (parts, scaled))
    assert relative(found, due) < 1e-5


def test_smoothing_makes_an_outlier_smaller():
    """One channel 100 times as large as the others: W8A8 loses it, smoothed it does not."""
    weight, x = numbers(48, 64), numbers(400, 64, seed=3)
    x[:, 7] *= 100
    due = x.double() @ weight.double().T
    errors = []
    for s in (torch.ones(64), (x.abs().amax(0) / weight.abs().amax(0)).sqrt()):
        own = x / s
        inputs = Inputs(own.abs().amax(0), own.abs().mean(0), own.T @ own)
        tensors = BothPerChannel.store(weight * s, IN_HALF, lambda inputs=inputs: inputs)
        errors.append(relative(BothPerChannel(tensors, None, torch.float32)(own), due))
    assert errors[1] < errors[0] / 3


# -- GPTQ --


def problem(outputs: int = 24, width: int = 64, dead: int = 0):
    """A weight, and inputs that are correlated, some of them always 0."""
    x = numbers(500, width, seed=1) @ numbers(width, width, seed=2)
    x[:, :dead] = 0
    return numbers(outputs, width), x, Inputs(x.abs().amax(0), x.abs().mean(0), x.T @ x / len(x))


def output_error(kind, rounding, weight, x, inputs, **changes) -> float:
    recipe = replace(IN_HALF, format=kind, rounding=rounding, **changes)
    apart = kind.dense(kind.store(weight, recipe, lambda: inputs)) - weight.double()
    return (x.double() @ apart.T).norm().item()


@pytest.mark.parametrize("kind", (Int4, PerChannel))
@pytest.mark.parametrize("dead", (0, 3))
def test_gptq_loses_less_than_the_nearest_codes(kind, dead):
    weight, x, inputs = problem(dead=dead)
    nearest = output_error(kind, CompressRecipe().rounding, weight, x, inputs)
    chosen = output_error(kind, GPTQ, weight, x, inputs)
    assert chosen < 0.8 * nearest


def test_gptq_on_every_matrix_of_a_model():
    parts, base = small_parts(), small_base()
    maker = Statistics(parts, base.calibration).maker
    for name, weight in parts.matrices.items():
        gram, errors = maker(name)().gram.double(), []
        for rounding in (GPTQ, CompressRecipe().rounding):
            recipe = replace(IN_HALF, format=Int4, rounding=rounding)
            apart = Int4.dense(Int4.store(weight, recipe, maker(name))) - weight.double()
            errors.append(((apart @ gram) * apart).sum().item())
        assert errors[0] < errors[1], name


def test_gptq_is_its_definition():
    """Column by column in float64, with the inverse taken anew each time: Frantar et al., eq. 2."""
    weight, x, inputs = problem(outputs=5, width=32)
    recipe = replace(IN_HALF, format=Int4, group=32)
    grid, codes = GPTQ.choose(Int4, weight, recipe, lambda: inputs)
    moments, left = inputs.gram.double(), weight.double().clone()
    moments += 0.01 * moments.diagonal().mean() * torch.eye(32)
    for j in range(32):
        inverse = torch.linalg.inv(moments[j:, j:])
        column = grid.codes(left)[:, j]
        assert (column == codes[:, j].double()).float().mean() >= 0.8  # near ties differ
        error = left[:, j] - grid.values(codes.double())[:, j]
        left[:, j:] -= error[:, None] / inverse[0, 0] * inverse[0]


def test_gptq_without_damping_would_fail_and_dead_inputs_are_zeros():
    gram = torch.zeros(8, 8)
    gram[:4, :4] = torch.ones(4, 4)  # of rank 1
    dead, factor = inverse_factor(gram, DAMPING)
    assert dead.tolist() == [False] * 4 + [True] * 4
    assert factor.isfinite().all()
    weight, x, inputs = problem(dead=3)
    recipe = replace(IN_HALF, format=PerChannel, rounding=GPTQ)
    assert not PerChannel.dense(PerChannel.store(weight, recipe, lambda: inputs))[:, :3].any()


def test_a_table_that_is_only_looked_up_takes_its_nearest_codes():
    weight = numbers(20, 64)
    recipe = replace(IN_HALF, format=Int4, rounding=GPTQ)
    nearest = Int4.store(weight, replace(recipe, rounding=CompressRecipe().rounding), None)
    assert all(torch.equal(a, b) for a, b in zip(
        Int4.store(weight, recipe, None).values(), nearest.values(), strict=True
    ))  # fmt: skip


# -- QAT --

QAT = replace(CompressRecipe(), format=Int4, training=Rounded)


def test_qat_converted_is_the_fake_quantised_model_bit_for_bit():
    base = small_base()
    state = Rounded.trained(base, QAT, SETTINGS)
    model, ids = model_of(state, SHAPE), torch.randint(SHAPE.vocab_size, (1, 20))
    fake = {
        name: straight_through(p, QAT)
        for name, p in model.named_parameters()
        if p.dim() == 2 and "position" not in name
    }
    tensors, metadata, _ = made(base, QAT, SETTINGS)
    converted = {k: v.clone() for k, v in state.items()}
    for name in json.loads(metadata["formats"]):
        own = {k: tensors[f"{name}.{k}"] for k in ("codes", "both", "shape")}
        grid, codes = Int4.grid(own)
        dense = grid.values(codes.float())
        if name == EMBEDDING:
            converted["token_embedding.weight"] = converted["head.weight"] = dense
        else:
            block, _, kind = name.rpartition(".")
            if kind == "qkv":
                for part, rows in zip(("query", "key", "value"), dense.chunk(3), strict=True):
                    converted[f"{block}.attention.W_{part}.weight"] = rows
            else:
                where = "attention" if kind == "out_proj" else "feed_forward"
                converted[f"{block}.{where}.{kind}.weight"] = dense
    assert all(torch.equal(converted[name], value) for name, value in fake.items())
    with torch.no_grad():
        seen = torch.func.functional_call(model, fake, (ids,))
        assert torch.equal(model_of(converted, SHAPE)(ids), seen)


def test_straight_through_gives_the_gradient_to_the_weight():
    weight = numbers(4, 64).requires_grad_()
    rounded = straight_through(weight, QAT)
    assert not torch.equal(rounded, weight)
    rounded.square().sum().backward()
    assert torch.equal(weight.grad, 2 * rounded.detach())


def test_the_control_of_qat_trains_as_long_on_the_same_windows(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "ladders.compress.step10_qat.train",
        lambda model, windows, steps, rate, **more: calls.append((windows, steps, rate)),
    )
    for kind in (Rounded, Longer):
        kind.trained(small_base(), QAT, SETTINGS)
    assert calls[0] == calls[1]
    controls = Rounded.controls(QAT)
    assert {one.training for one in controls.values()} == {Longer}
    assert {one.format for one in controls.values()} == {Plain, Int4}


# -- the knapsack --


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_exact(seed):
    random = np.random.default_rng(seed)
    options = {
        thing: {
            label: (int(random.integers(1, 40)), float(random.normal(0, 1)))
            for label in ("a", "b", "c")[: random.integers(1, 4)]
        }
        for thing in range(6)
    }
    budget = int(random.integers(20, 160))
    every = [
        [options[thing][label] for thing, label in enumerate(labels)]
        for labels in itertools.product(*options.values())
    ]
    fitting = [sum(loss for _, loss in one) for one in every if sum(b for b, _ in one) <= budget]
    found = cheapest(options, budget)
    if not fitting:
        assert found is None
        return
    assert sum(options[thing][label][0] for thing, label in found.items()) <= budget
    loss = sum(options[thing][label][1] for thing, label in found.items())
    assert loss == pytest.approx(min(fitting), abs=1e-12)


def test_a_mix_keeps_to_its_budget_and_is_measured():
    base, parts = small_base(), small_parts()
    formats = {label: make(IN_HALF) for label, make in FORMATS.items()}
    options = sensitivity.options_of(parts, formats, base)
    assert options.keys() == parts.matrices.keys()
    own = options["blocks.0.qkv"]
    assert own["bfloat16"][0] == 2 * parts.matrices["blocks.0.qkv"].numel()
    assert own["bfloat16"][0] > own["int8"][0] > own["int4"][0]
    budget = sensitivity.budget_of(parts, IN_HALF, replace(SETTINGS, budget_bytes=400_000))
    room = sensitivity.room_for_matrices(parts, formats["int4"], budget)
    recipes = {n: formats[label] for n, label in cheapest(options, room).items()}
    tensors, metadata = file_of(parts, recipes, lambda name: None)
    assert 0.9 * budget < files.file_bytes(tensors, metadata) <= budget
    change = sensitivity.change_of_mix(parts, recipes, base)
    plain = sensitivity.loss_of(of_parts(parts), base.calibration[:4])
    mixed = sensitivity.loss_of(
        built(tensors, metadata, 0, "cpu", exact=True), base.calibration[:4]
    )
    assert change == pytest.approx(mixed - plain, abs=1e-4)
    with pytest.raises(UserError, match=r"--budget-bytes 1,000: nothing fits; the smallest mix"):
        sensitivity.room_for_matrices(parts, formats["int4"], 1000)


def test_the_default_budget_is_a_sixth_of_float32():
    parts = small_parts()
    tensors, metadata = file_of(
        parts, dict.fromkeys(parts.matrices, CompressRecipe()), lambda name: None
    )
    budget = sensitivity.budget_of(parts, IN_HALF, SETTINGS)
    assert budget == files.file_bytes(tensors, metadata) // 6


# -- pruning --


def test_worked_example_of_a_threshold():
    """40 % of five: by percentile 0.22; a threshold of 0.3 would take 60 %."""
    weight = torch.tensor([0.5, -0.1, 0.8, -0.05, 0.3])
    assert torch.quantile(weight.abs(), 0.4).item() == pytest.approx(0.22)
    assert largest(weight, 0.4).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("sparsity", (0.0, 0.3, 0.5, 0.9, 1.0))
def test_a_masks_density_is_exact(sparsity):
    for weight in (numbers(13, 17), torch.zeros(13, 17), torch.ones(5, 3)):  # ties, too
        mask = largest(weight, sparsity)
        assert ((~mask).sum(-1) == round(sparsity * weight.shape[-1])).all()
        assert mask.shape == weight.shape


def test_worked_examples_of_masked_files():
    """A bit each, and half the weights: 1.88 times smaller than float32, 1.78 than bfloat16."""
    weight = numbers(64, 64)
    for dtype, due in ((torch.float32, 1.88), (HALF, 1.78)):
        tensors = Masked.store(weight, CompressRecipe(dtype=dtype, sparsity=0.5), None)
        tensors.pop("shape")
        whole = weight.numel() * dtype.itemsize
        assert whole / sum(t.nbytes for t in tensors.values()) == pytest.approx(due, abs=5e-3)


def test_heads_and_neurons_are_chosen_by_their_scores():
    base = small_base()
    kept = Smaller.kept(base, CompressRecipe())
    assert [[len(numbers) for numbers in layer] for layer in kept] == [[3, 384]] * SHAPE.layers
    state = {k: v.clone() for k, v in base.state.items()}
    state["blocks.0.attention.out_proj.weight"][:, 32:64] *= 100  # of head 1
    state["blocks.1.feed_forward.expand.weight"][5] = 0
    state["blocks.1.feed_forward.contract.weight"][:, 5] = 0
    kept = Smaller.kept(replace(base, state=state), CompressRecipe())
    assert 1 in kept[0][0].tolist()
    assert 5 not in kept[1][1].tolist()


def test_the_first_term_of_taylors_series():
    """dL = -g w + H w^2 / 2 is exact for a square; the score is its first term's magnitude."""
    w = torch.tensor([[0.5, -2.0]], requires_grad=True)
    target = torch.tensor([[1.0, 1.0]])
    loss = ((w - target) ** 2).sum()
    loss.backward()
    for column in (0, 1):
        without = w.detach().clone()
        without[0, column] = 0
        due = ((without - target) ** 2).sum() - loss.detach()
        g, own = w.grad[0, column], w.detach()[0, column]
        assert due == pytest.approx((-g * own + 2 * own**2 / 2).item())
    assert torch.allclose(change(w, 2), (w.grad * w.detach())[0].abs())


def test_every_choice_of_heads_takes_equal_bytes():
    base, sizes = small_base(), set()
    recipe = replace(IN_HALF, pruning=Smaller)
    for own in (recipe, *Smaller.controls(recipe).values()):
        tensors, metadata, _ = made(base, own, SETTINGS)
        sizes.add(files.file_bytes(tensors, metadata))
    assert len(sizes) == 1


# -- lottery --

TICKET = replace(CompressRecipe(), format=Masked, sparsity=0.5, training=Ticket)


@pytest.mark.parametrize("kind", (Ticket, Scattered, Redrawn))
def test_a_tickets_zeros_stay_zeros(kind):
    base = small_base()
    state = kind.trained(base, TICKET, SETTINGS)
    for name, weight in state.items():
        if weight.dim() == 2 and "position" not in name:
            mask = largest(base.state[name], 0.5)
            assert (weight == 0).sum() == weight.numel() // 2, name
            assert (weight[~mask] == 0).all() == (kind is not Scattered)


def test_a_ticket_begins_where_the_training_was(monkeypatch):
    base, seen = small_base(), {}

    def watched(model, windows, steps, **more):
        seen.update(state_of(model) | more)

    monkeypatch.setattr("common.workloads.compress.lottery.train", watched)
    Ticket.trained(base, TICKET, SETTINGS)
    mask = largest(base.state["head.weight"], 0.5)
    assert torch.equal(seen["head.weight"], base.early["head.weight"] * mask)
    assert seen["done"] == 1
    Redrawn.trained(base, TICKET, SETTINGS)
    assert seen["done"] == 0
    assert not torch.equal(seen["head.weight"], base.early["head.weight"] * mask)
    with pytest.raises(DoesNotApply, match="nothing to rewind to"):
        Ticket.trained(replace(base, early=None), TICKET, SETTINGS)


def test_training_that_goes_on_is_training_in_one_piece_but_for_its_moments():
    """The same windows at the same rates."""
    windows, seen = small_base().windows, []

    class Watched(Windows):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    watched = Watched(windows.tokens, windows.context)
    train(started(SHAPE, 1), watched, 3)
    whole, seen[:] = list(seen), []
    train(started(SHAPE, 1), watched, 3, done=2)
    assert seen == whole[2 * len(whole) // 3 :]


# -- texts apart --


def settings(**changes) -> Settings:
    shape = replace(SHAPE, context=32, vocab_size=50_257)
    return Settings(shape=shape, calibration_windows=4, **changes)


def held_out_text() -> str:
    """Some of the text that losses are compared on."""
    content = read_text().content
    return content[int(0.97 * len(content)) :][:2000]


def test_calibration_shares_no_run_with_the_held_out_text():
    windows, held = split(read_tokens(read_text()), settings().shape)
    found = bases.calibration_windows(settings(), windows, held)
    seen = bases.runs(held.tokens)
    assert [len(ids) for ids in found] == [33] * 4
    assert not any(bases.runs(ids.numpy()) & seen for ids in found)


def test_a_planted_overlap_is_refused(tmp_path):
    path = tmp_path / "calibration.txt"
    windows, held = split(read_tokens(read_text()), settings().shape)
    words = " ".join(f"word {number} of a text of its own;" for number in range(100))
    path.write_text(words)
    own = bases.calibration_windows(settings(calibration=str(path)), windows, held)
    assert len(own) == 4
    path.write_text(words + held_out_text() + words)
    with pytest.raises(UserError, match=r"runs of 32 tokens are in the held-out text, too"):
        bases.calibration_windows(settings(calibration=str(path)), windows, held)
    path.write_text("short")
    with pytest.raises(UserError, match="has 1 tokens, and a window of 33 is needed"):
        bases.calibration_windows(settings(calibration=str(path)), windows, held)


def test_windows_that_overlap_are_passed_over():
    """A training text whose second half is the held-out text: none of that half is taken."""
    ids = np.arange(2000, dtype=np.uint16) % 499
    held = Windows(ids[:1000][::-1].copy(), 32)
    mixed = Windows(np.concatenate([ids[:1000], held.tokens]), 32)
    found = bases.calibration_windows(settings(), mixed, held)
    assert all((ids.diff() > 0).float().mean() > 0.9 for ids in found)
    with pytest.raises(UserError, match="every window of the text shares a run"):
        bases.calibration_windows(settings(), held, held)


# -- quality --


def test_pairs_are_compared_and_their_interval_is_students():
    low, delta, high = paired([2.0, 3.0, 4.0, 5.0], [1.9, 2.8, 3.9, 4.8])
    assert delta == pytest.approx(0.15)
    half = 3.182 * np.std([0.1, 0.2, 0.1, 0.2], ddof=1) / 2
    assert (low, high) == pytest.approx((0.15 - half, 0.15 + half), abs=1e-4)
    assert paired([2.0], [1.5]) == (None, 0.5, None)


def test_a_model_is_no_distance_from_itself_and_some_from_another():
    parts = small_parts()
    _, held = split(read_tokens(read_text()), replace(SHAPE, context=32))
    windows = [ids % SHAPE.vocab_size for ids in held_out(held, 3)]
    plain = of_parts(parts)
    same = compare(plain, plain, windows)
    assert (same.delta, same.same_top, same.windows) == (0, 1, 3)
    assert same.kl == pytest.approx(0, abs=1e-6)
    other = of_parts(
        replace(parts, matrices=parts.matrices | {EMBEDDING: -parts.matrices[EMBEDDING]})
    )
    found = compare(other, plain, windows)
    logits = [model(windows[0][None, :-1])[0].double() for model in (other, plain)]
    losses = [F.cross_entropy(one, windows[0][1:]).item() for one in logits]
    first = compare(other, plain, windows[:1])
    assert first.delta == pytest.approx(losses[0] - losses[1], abs=1e-4)
    own, due = (one.softmax(-1) for one in logits)
    kl = (due * (due.log() - own.log())).sum(-1).mean().item()
    assert first.kl == pytest.approx(kl, rel=1e-3)
    assert found.kl > 0.01
    assert found.same_top < 1


def test_the_front_holds_whom_nobody_beats():
    points = [(100, 0.0), (50, 0.1), (25, 0.2), (30, 0.3), (26, 0.2), (50, 0.05)]
    assert front(points) == [2, 5, 0]


# -- types --


def test_a_grid_is_read_as_it_was_written():
    grid = Grid(*(numbers(3, 2, seed=n).abs() for n in range(3)), 0, 15)
    assert grid.stored().scale.equal(grid.scale.to(HALF).float())
    assert symmetric(torch.ones(1, 1)).least == -127


def test_what_was_trained_longer_is_not_in_the_headline():
    """A ticket loses less than float32, since it was trained on: its control says what it is."""
    records = Records(PROJECT / "results/amd-epyc-2-cores/compress-ticket/records.jsonl").read()
    texts = " ".join(text.get_text() for text in pareto_figure(records).texts)
    assert "Magnitude pruning" in texts and "Lottery ticket" not in texts
    assert "Trained longer than float32, so neither on the line nor in the headline: 15" in texts

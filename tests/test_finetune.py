"""The finetune ladder: parts that start as the base, train alone, and lose no bit when swapped."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.accelerator.device import describe
from common.cli import run as command
from common.engine.contract import Disturbed, NotEquivalent, Numerics
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.measure import measure
from common.gpt.model import GPT, Block, Linear, parameter_count
from common.gpt.shape import Shape
from common.workloads.finetune import check as checking
from common.workloads.finetune import session as sessions
from common.workloads.finetune.build import begin_again, make_run
from common.workloads.finetune.check import SHAPE, START, check, coarse_state, small_run
from common.workloads.finetune.files import (
    from_peft,
    peft_name,
    read_parts,
    safetensors,
    save_parts,
    to_peft,
)
from common.workloads.finetune.parts import PARTS, install, load_parts, snapshot, trained
from common.workloads.finetune.plot_reached import reached_figure, title
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import Beside, Merged, MergedOverBase
from common.workloads.finetune.session import FinetuneSession
from common.workloads.finetune.settings import Settings
from common.workloads.finetune.texts import base_text, task_text
from common.workloads.finetune.workload import FINETUNE
from common.workloads.generate.published import read_safetensors
from common.workloads.train.build import train_step
from ladders.finetune import LADDER, METHODS, step02_adapter
from ladders.finetune.step02_adapter import Adapter
from ladders.finetune.step03_lora_query_value import LoRA
from ladders.finetune.step07_prefix import PrefixAttention
from ladders.finetune.step09_dora import DoRA
from ladders.finetune.step10_qlora import QLoRA
from tests.conftest import PROJECT, climb, last_json

CPU, HERE = torch.device("cpu"), describe("cpu")
PLAIN = FinetuneRecipe(batch_size=2)
TINY = Shape(layers=1, heads=2, emb_dim=32, context=32)
TRAINED = (1, 2, 3, 4, 7, 8, 9, 10)  # rungs with a training of their own
GPT2 = Shape()


def recipe_at(number: int, **changes) -> FinetuneRecipe:
    return replace(LADDER.compose(PLAIN, LADDER.chain(number)), **changes)


def checked(number: int, recipe: FinetuneRecipe | None = None):
    """The check's answer on a rung, or on another recipe in its place."""
    chain = LADDER.chain(number)
    below = LADDER.compose(PLAIN, chain[:-1])
    claim = LADDER.numerics(number)
    against = Against(baseline=PLAIN, below=below, numerics=claim)
    return check(recipe or recipe_at(number), against, CPU)


def model_at(recipe: FinetuneRecipe, shape: Shape, weights=None):
    """With parts, without memory: to count."""
    with torch.device("meta"):
        model = recipe.model(shape, recipe, shape.vocab_size)
        install(model, recipe)
    return model


def count(recipe: FinetuneRecipe, shape: Shape = GPT2) -> int:
    return sum(p.numel() for p in trained(model_at(recipe, shape)).values())


# -- how many parameters --


@pytest.mark.parametrize(
    ("number", "due"),
    [
        (1, parameter_count(GPT2, GPT2.vocab_size)),
        (2, 2_379_264),
        (3, 294_912),
        (4, 1_327_104),
        (7, 368_640),
        (8, 15_360),
        (9, 1_327_104 + 12 * 9 * 768),  # a length for each output of a block's layers
    ],
)
def test_the_parameters_of_gpt2(number, due):
    assert count(recipe_at(number)) == due


@pytest.mark.parametrize("shape", [TINY, SHAPE, Shape(layers=3, heads=3, emb_dim=96, context=48)])
@pytest.mark.parametrize("rank", [1, 5])
def test_the_formulas(shape, rank):
    layers, width = shape.layers, shape.emb_dim
    narrow = max(1, width // 12)
    assert count(recipe_at(3, rank=rank), shape) == layers * 2 * 2 * width * rank
    assert count(recipe_at(4, rank=rank), shape) == layers * 18 * width * rank
    assert count(recipe_at(2), shape) == layers * 2 * (2 * width * narrow + narrow + width)
    assert count(recipe_at(7), shape) == 2 * layers * 20 * width
    assert count(recipe_at(8), shape) == 20 * width


def linear(inputs: int, outputs: int) -> Linear:
    with torch.device("meta"):
        return Linear(inputs, outputs, bias=False)


def new_of(part) -> int:
    return sum(getattr(part, name).numel() for name in part.NEW)


def test_worked_examples(monkeypatch):
    """Adapter of 64 at 1,024; LoRA of 8 at 4,096, and of 16 at 2,048."""
    monkeypatch.setattr(step02_adapter, "NARROWING", 16)
    adapter = Adapter(linear(1024, 1024), PLAIN)
    assert new_of(adapter) == 132_160
    assert adapter.down.numel() + adapter.up.numel() == 131_072
    square = new_of(LoRA(linear(4096, 4096), replace(PLAIN, rank=8)))
    assert (square, 4096**2) == (65_536, 16_777_216)
    assert round(100 * (1 - square / 4096**2), 2) == 99.61
    assert new_of(LoRA(linear(2048, 2048), replace(PLAIN, rank=16))) * 64 == 2048**2


# -- the check, and what it refuses --


@pytest.mark.parametrize("number", range(LADDER.top + 1))
def test_every_rung_passes(number):
    found = checked(number)
    assert found.error <= START
    assert found.claim is LADDER.numerics(number)
    if number not in (7, 8, 9, 10):  # bit for bit: what is new is 0
        assert found.error == 0


class BeginsElsewhere(LoRA):
    def begin(self, generator):
        super().begin(generator)
        self.lora_B.add_(0.01)


class Forgets(LoRA):
    """B is in the file, and in no product."""

    def forward(self, x):
        return Linear.forward(self, x)


class Detached(LoRA):
    """As under checkpointing that begins at inputs without a gradient."""

    def forward(self, x):
        beside = self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        return Linear.forward(self, x) + beside.detach()


class HalfDetached(LoRA):
    def forward(self, x):
        beside = self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        return Linear.forward(self, x) + beside / 2 + beside.detach() / 2


class MovesTheBase(LoRA):
    def forward(self, x):
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.weight.mul_(1.001)
        return super().forward(x)


class MergesUnscaled(LoRA):
    def merge_into(self, weight):
        torch.addmm(self.weight, self.lora_B, self.lora_A, out=weight)


class ForgetsTheZero(QLoRA):
    def base_weight(self):
        return super().base_weight() + 0.01


class SeesTheFuture(PrefixAttention):
    def attend(self, query, key, value):
        before = [self.split_heads(p[None]) for p in (self.prefix_key, self.prefix_value)]
        before = [part.expand(len(query), -1, -1, -1) for part in before]
        key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        return F.scaled_dot_product_attention(query, key, value)


class LeavesOne(LoRA):
    """A target that is wrapped, and whose B does not train."""

    def __init__(self, linear, recipe):
        super().__init__(linear, recipe)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    NEW = (*LoRA.NEW, "unused")


@pytest.mark.parametrize(
    ("number", "field", "fault", "words"),
    [
        (4, "part", BeginsElsewhere, "at its start the logits are off"),
        (4, "part", Forgets, "does not depend on any of 24 trained parts"),
        (4, "part", Detached, "does not depend on any of 24 trained parts"),
        (4, "part", HalfDetached, "off the loss's slope"),
        (4, "part", MovesTheBase, "frozen have changed"),
        (4, "part", LeavesOne, "parts stay as they began: blocks.0.attention.W_query.unused"),
        (5, "part", MergesUnscaled, "merged weights answer otherwise"),
        (6, "part", MergesUnscaled, "merged weights answer otherwise"),
        (10, "part", ForgetsTheZero, "is kept to"),
        (7, "attention", SeesTheFuture, "at its start the logits are off"),
    ],
)
def test_a_planted_fault_is_refused(number, field, fault, words):
    with pytest.raises(NotEquivalent, match=words):
        checked(number, recipe_at(number, **{field: fault}))


class Reentrant(Block):
    """peft's users met it: without a gradient at the block's input nothing inside gets one."""

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpointing_that_leaves_every_b_at_zero_is_refused(monkeypatch):
    monkeypatch.setattr(checking, "MadeAgain", Reentrant)
    with pytest.raises(NotEquivalent, match="does not depend on any of 24 trained parts"):
        checked(4)


class SilentSwap(Merged):
    """Takes another text's parts, and drops them."""

    def put(self, task):
        if any(True for _ in self.model.named_modules() if isinstance(_[1], LoRA)):
            super().put(task)


class SwapsNothing(Beside):
    def put(self, task):
        if not hasattr(self, "done"):
            super().put(task)
        self.done = True


class Subtracts(MergedOverBase):
    """Takes away what was added, instead of keeping the base's weights."""

    @torch.no_grad()
    def put(self, task):
        before = {name: part.scale * part.lora_B @ part.lora_A for name, part in self.parts.items()}
        first = not hasattr(self, "done")
        load_parts(self.own, task)
        for name, part in self.parts.items():
            own = part.scale * part.lora_B @ part.lora_A
            if first:
                self.weights[name].copy_(part.weight + own)
            else:
                self.weights[name].add_(own - before[name])
        self.done = True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (SilentSwap, "into a model that cannot change its text"),
        (SwapsNothing, "answers as before it"),
        (Subtracts, "after a switch and back the model answers otherwise"),
    ],
)
def test_a_wrong_swap_is_refused(fault, words):
    with pytest.raises(NotEquivalent, match=words):
        checking.merged_errors(recipe_at(4, serving=fault), CPU)


@pytest.mark.parametrize("number", (3, 9, 10))
@pytest.mark.parametrize("serving", (Merged, MergedOverBase))
def test_all_that_comes_to_a_matrix_can_be_merged(number, serving):
    found = checking.merged_errors(recipe_at(number, serving=serving), CPU)
    assert 0 < found["float64"] < found["float32"] < found["bfloat16"]


def test_a_rung_that_only_serves_may_not_train_otherwise():
    with pytest.raises(NotEquivalent, match="it trains otherwise"):
        checked(5, recipe_at(5, learning_rate=0.5))


def test_an_exact_rung_may_not_answer_otherwise():
    with pytest.raises(NotEquivalent, match="answers otherwise than the rung below"):
        checked(6, recipe_at(6, serving=Beside))


# -- the parts, against their formulas --


@contextmanager
def random_parts(number: int, **changes) -> Iterator:
    """A model in float64 whose parts are no longer at their start."""
    run = small_run(recipe_at(number, dtype=torch.float64, **changes), CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained(run.model).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
        yield run.model


@pytest.mark.parametrize("number", (3, 4, 9, 10))
def test_a_model_with_parts_is_the_gpt_with_their_weights(number):
    with random_parts(number) as model:
        plain = GPT(SHAPE, FinetuneRecipe(), SHAPE.vocab_size).double()
        plain.load_state_dict(coarse_state())
        for name, part in model.named_modules():
            if not isinstance(part, LoRA):
                continue
            weight = part.base_weight() + 16 / 8 * part.lora_B @ part.lora_A
            if number == 9:
                weight *= (part.lora_magnitude_vector / weight.norm(dim=1))[:, None]
            plain.get_submodule(name).weight.copy_(weight)
        ids = checking.made_up_ids(2, 16)
        assert torch.allclose(model(ids), plain(ids), rtol=1e-11, atol=1e-11)


def test_an_adapter_is_a_bottleneck_beside_a_shortcut():
    with random_parts(2) as model:
        layer = model.blocks[0].attention.out_proj
        x = torch.randn(3, 64, dtype=torch.float64)
        y = x @ layer.weight.T + layer.bias
        narrow = torch.tanh(0.7978845608028654 * ((z := y @ layer.down.T + layer.down_bias)
                            + 0.044715 * z**3)) + 1  # fmt: skip
        due = y + (0.5 * z * narrow) @ layer.up.T + layer.up_bias
        assert torch.allclose(layer(x), due, rtol=1e-12, atol=1e-12)


def test_four_bits_are_five_a_weight_and_no_parameter():
    run = small_run(recipe_at(10), CPU)
    part = run.model.blocks[0].feed_forward.expand
    assert isinstance(part, QLoRA)
    assert 8 * (part.codes.nbytes + part.both.nbytes) == 5 * 64 * 256
    assert not [name for name, _ in part.named_parameters() if name == "weight"]
    due = coarse_state()["blocks.0.feed_forward.expand.weight"]
    least, most = due.view(256, -1, 32).aminmax(dim=-1)
    step = ((most - least) / 15).amax()
    assert (part.base_weight() - due).abs().max() <= 0.55 * step


@pytest.mark.parametrize("number", TRAINED)
def test_the_seed_is_of_what_begins_at_random(number):
    one, same, other = (snapshot(small_run(recipe_at(number), CPU, s).model) for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    at_random = number in (2, 3, 4, 9, 10)
    assert any(not torch.equal(one[name], other[name]) for name in one) == at_random


@pytest.mark.parametrize("number", TRAINED)
def test_the_next_text_begins_where_the_first_did(number):
    """Not where the first ended: parts, weights, and the optimizer."""
    ids = checking.made_up_ids(1, SHAPE.context, seed=7)[0]
    windows = checking.made_up_ids(2, 17)
    first = small_run(recipe_at(number), CPU, seed=1)
    for _ in range(2):
        train_step(first, windows[:, :-1], windows[:, 1:])
    again, fresh = begin_again(first, coarse_state(), ids, 5), small_run(recipe_at(number), CPU, 5)
    assert not again.optimizer.state
    for one in (again, fresh):
        train_step(one, windows[:, :-1], windows[:, 1:])
    own, due = snapshot(again.model), snapshot(fresh.model)
    assert all(torch.equal(own[name], due[name]) for name in due)


def test_published_biases_and_a_padded_vocabulary_are_the_base_too():
    weights = coarse_state()
    for layer in range(SHAPE.layers):
        for name in ("W_query", "W_key", "W_value"):
            weights[f"blocks.{layer}.attention.{name}.bias"] = torch.full((SHAPE.emb_dim,), 0.5)
    ids = checking.made_up_ids(1, SHAPE.context)[0]
    found = []
    for multiple in (1, 64):
        recipe = recipe_at(4, vocab_multiple=multiple)
        run = make_run(recipe, SHAPE, weights, CPU, ids, 1)
        assert torch.equal(run.model.blocks[1].attention.W_key.bias, torch.full((64,), 0.5))
        found.append(run.model(ids[None])[..., : SHAPE.vocab_size])
    assert torch.allclose(*found, atol=1e-5)
    assert not torch.allclose(found[0], small_run(recipe_at(4), CPU).model(ids[None]), atol=1e-2)


# -- a session --


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[str, str]:
    """Two files to adapt to."""
    folder, found = tmp_path_factory.mktemp("tasks"), []
    for name, words in (("one", "a ship sails on the sea"), ("two", "def step(self): return x")):
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{n} {words}, said {n * n}. " for n in range(300)))
        found.append(str(path))
    return tuple(found)


@pytest.fixture(scope="module")
def settings(texts) -> Settings:
    return Settings(shape=TINY, steps=6, warmup=2, tasks=texts, seed=1)


def taken(recipe: FinetuneRecipe, settings: Settings, **spoilt):
    """The measurement of a recipe, in this process; `spoilt`: methods put in place."""
    kind = type("Spoilt", (FinetuneSession,), spoilt)
    return measure(lambda: kind(recipe, settings, CPU), settings, lambda run: {}, lambda _: None)


@pytest.mark.parametrize("number", (0, 1, 4, 5, 6, 8))
def test_what_is_counted(number, settings):
    found = taken(recipe_at(number), settings)
    parameters = count(recipe_at(number), TINY) if number else 0
    assert found["trainable_parameters"] == parameters
    assert found["gradient_bytes"] == 4 * parameters
    assert found["moment_bytes"] == 8 * parameters
    whole = 4 * parameter_count(TINY, TINY.vocab_size)
    assert found["task_bytes"] == (whole if number in (1, 5) else 4 * parameters)
    assert (found["switch_s"] is None) == (number in (0, 5))
    assert found["peak_tensor_bytes"] > whole
    assert len(found["losses"]) == 8
    if not number:
        assert found["losses"][0] == pytest.approx(found["losses"][-1], abs=0.5)


def test_merged_and_switched_reach_what_the_parts_beside_reach(settings):
    beside, merged, switched = (taken(recipe_at(n), settings) for n in (4, 5, 6))
    assert merged["losses"] == beside["losses"]
    assert merged["held_out_losses"] == pytest.approx(beside["held_out_losses"], rel=1e-5)
    assert switched["held_out_losses"] == merged["held_out_losses"]
    assert switched["base_text_loss"] == merged["base_text_loss"]


def test_a_seed_is_another_order_and_the_same_one_repeats(settings):
    one, same = (taken(recipe_at(4), settings) for _ in range(2))
    other = taken(recipe_at(4), replace(settings, seed=2))
    assert one["losses"] == same["losses"]
    assert one["losses"] != other["losses"]
    assert FINETUNE.seeded(settings, 3).seed == 3


def test_each_text_is_learnt_by_itself(settings, monkeypatch):
    """The second text's parts know nothing of the first."""
    monkeypatch.setattr(sessions, "seed_of", lambda seed, task: seed)
    kept = []

    def keep(self, tell):
        kept.append(self.states)
        return {}

    for tasks in (settings.tasks, settings.tasks[::-1]):
        taken(recipe_at(4), replace(settings, tasks=tasks), served=keep)
    (one, two), (two_first, one_last) = kept
    assert all(torch.equal(two[name], two_first[name]) for name in two)
    assert all(torch.equal(one[name], one_last[name]) for name in one)


def spoil_order(self):
    FinetuneSession.step(self)
    self.seen[-1] = self.seen[-1].flip(0)


def spoil_base(self):
    FinetuneSession.step(self)
    with torch.no_grad():
        self.run.model.head.weight[3, 3] += 1e-6


def spoil_training(self, inputs, targets):
    with torch.no_grad():
        return self.run.objective(inputs, targets)


@pytest.mark.parametrize(
    ("spoilt", "error", "words"),
    [
        ({"step": spoil_order}, Disturbed, "windows whose turn it was"),
        ({"step": spoil_base}, NotEquivalent, "frozen have changed"),
        ({"train": spoil_training}, NotEquivalent, "parts stay as they began"),
    ],
)
def test_a_spoilt_session_is_refused(settings, spoilt, error, words):
    with pytest.raises(error, match=words):
        taken(recipe_at(4), settings, **spoilt)


@pytest.mark.parametrize("number", TRAINED)
def test_the_probe_sees_what_was_trained(settings, number):
    rung, session = LADDER.rung(number), FinetuneSession(recipe_at(number), settings, CPU)
    with pytest.raises(Exception, match="did not move"):
        rung.in_effect(session.run)
    session.step()
    session.look()
    assert "moved" in rung.in_effect(session.run)


def test_the_windows_that_choose_a_rate_are_not_those_that_are_reported(settings):
    text = task_text(0, settings.tasks[0], TINY)
    assert text.tuning and text.test and not set(text.tuning) & set(text.test)
    record = {"measurement": {"tuning_loss": 2.0, "held_out_loss": 3.0}}
    assert FINETUNE.rate(record) == 0.5
    assert FINETUNE.near == 0


def test_the_base_is_given_half_of_the_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("first half. " * 50 + "other half. " * 50)
    assert base_text(str(path)).read_text() == "first half. " * 50


def test_every_method_has_as_many_tries():
    for number in TRAINED:
        below = LADDER.compose(PLAIN, LADDER.chain(LADDER.rung(number).base))
        found = LADDER.rung(number).candidates(HERE, below)
        assert len(found) == 3
        rates = [recipe.learning_rate for recipe in found.values()]
        assert sorted(rates) == rates
        middle = LADDER.rung(number).apply(below)
        assert middle in found.values()
        assert {replace(r, learning_rate=0.0) for r in found.values()} == {
            replace(middle, learning_rate=0.0)
        }


# -- files --


def test_names_are_those_of_peft():
    assert peft_name("blocks.0.attention.W_query.lora_A") == (
        "base_model.model.blocks.0.attention.W_query.lora_A.weight"
    )
    assert peft_name("a.lora_magnitude_vector") == "base_model.model.a.lora_magnitude_vector"
    assert peft_name("prompt") == "prompt"


def test_a_file_that_peft_wrote_gives_peft_s_logits():
    """Left by tests/bench_peft.py, which also has peft read ours."""
    folder, shape = PROJECT / "tests" / "peft", Shape(layers=1, heads=2, emb_dim=32, context=16,
                                                      vocab_size=61)  # fmt: skip
    recipe, ids = METHODS["lora"](FinetuneRecipe(rank=4, alpha=6.0)), torch.arange(12)[None]
    model = make_run(recipe, shape, coarse_state(shape), CPU, ids[0], 1).model
    due = read_safetensors(folder / "logits.safetensors")["logits"]
    assert checking.apart(model(ids), due) > 1e-2  # the base alone
    task = read_parts(folder / "adapter_model.safetensors", recipe, "b" * 64)
    load_parts(trained(model), task)
    assert checking.apart(model(ids), due) < 1e-6
    assert to_peft(task).keys() == read_safetensors(folder / "adapter_model.safetensors").keys()


def test_parts_of_gpt2_s_own_layers_are_read():
    """Its query, key, and value are one layer: W + B A of all three together."""
    fused = {"lora_A": torch.randn(2, 8), "lora_B": torch.randn(24, 2)}
    other = {"lora_A": torch.randn(2, 32), "lora_B": torch.randn(8, 2)}
    layer = "base_model.model.transformer.h.3"
    file = {f"{layer}.attn.c_attn.{name}.weight": tensor for name, tensor in fused.items()}
    file |= {f"{layer}.mlp.c_proj.{name}.weight": tensor for name, tensor in other.items()}
    found = from_peft(file)
    names = [f"blocks.3.attention.{name}" for name in ("W_query", "W_key", "W_value")]
    whole = torch.cat([found[f"{n}.lora_B"] @ found[f"{n}.lora_A"] for n in names])
    assert torch.allclose(whole, fused["lora_B"] @ fused["lora_A"])
    assert torch.equal(found["blocks.3.feed_forward.contract.lora_B"], other["lora_B"])
    assert len(found) == 8


@pytest.mark.parametrize("number", (2, 3, 4, 7, 8, 9, 10))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_parts_come_back_from_a_file(number, dtype, tmp_path):
    recipe = recipe_at(number, dtype=dtype)
    task, path = snapshot(small_run(recipe, CPU).model), tmp_path / "parts.safetensors"
    save_parts(path, task, recipe, "b" * 64)
    found = read_parts(path, recipe, "b" * 64)
    assert found.keys() == task.keys()
    assert all(torch.equal(found[name], task[name]) for name in task)
    config = tmp_path / "adapter_config.json"
    assert config.exists() == (number in (3, 4, 9, 10))
    if config.exists():
        told = json.loads(config.read_text())
        assert (told["r"], told["lora_alpha"], told["use_dora"]) == (8, 16.0, number == 9)


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("c" * 64, {}, "made for the base bbbbbbbbbbbb, and this one is cccccccccccc"),
        ("b" * 64, {"rank": 4}, "made with rank 8, and 4 is asked for"),
        ("b" * 64, {"alpha": 8.0}, "made with alpha 16.0, and 8 is asked for"),
    ],
)
def test_parts_of_another_base_or_scale_are_refused(tmp_path, base, change, words):
    path = tmp_path / "parts.safetensors"
    save_parts(path, snapshot(small_run(recipe_at(4), CPU).model), recipe_at(4), "b" * 64)
    with pytest.raises(UserError, match=words):
        read_parts(path, recipe_at(4, **change), base)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x02" + b"\0" * 7 + b"[]"])
def test_a_damaged_file_is_a_sentence(tmp_path, content):
    path = tmp_path / "parts.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no safetensors"):
        read_parts(path, recipe_at(4), "b" * 64)


def test_peft_s_own_configuration_tells_the_scale(tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(safetensors({"a.lora_A.weight": torch.zeros(4, 8)}, {"format": "pt"}))
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 32}')
    with pytest.raises(UserError, match="made with rank 4.0, and 8 is asked for"):
        read_parts(path, recipe_at(4), "b" * 64)
    assert read_parts(path, recipe_at(4, rank=4, alpha=32.0), "b" * 64).keys() == {"a.lora_A"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda task: task.popitem(), "only the model has"),
        (lambda task: task.update(more=torch.zeros(1)), "only what is loaded has more"),
        (lambda task: task.update({next(iter(task)): torch.zeros(1)}), "is 1, and 8 x 64 is need"),
    ],
)
def test_parts_for_other_layers_are_refused_and_none_is_loaded(spoil, words):
    model = small_run(recipe_at(4), CPU).model
    before, task = snapshot(model), {k: t + 1 for k, t in snapshot(model).items()}
    spoil(task)
    with pytest.raises(UserError, match=words):
        load_parts(trained(model), task)
    after = snapshot(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_merged_weights_have_nothing_to_swap():
    model = small_run(recipe_at(5), CPU).model
    task, serving = snapshot(model), Merged(copy.deepcopy(model))
    serving.put(task)
    assert serving.model.state_dict().keys() == coarse_state().keys()
    with pytest.raises(UserError, match="load the base again"):
        serving.put(task)
    with pytest.raises(UserError, match="comes to a weight matrix"):
        MergedOverBase(small_run(recipe_at(2), CPU).model)


# -- the command --


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rank", "0"), "--rank 0: must be from 1 to the model's width, 32"),
        (("--rank", "33"), "--rank 33: must be from 1 to the model's width, 32"),
        (("--updates", "100000"), "windows are wanted, and "),
        (("--updates", "2"), "--updates: 2: must be a whole number from 3 on"),
        (("--tasks", "nowhere.txt", "nowhere.txt"), "--tasks nowhere.txt: no such file"),
        (("--weights", "nowhere.pt"), "--weights nowhere.pt: no such file"),
        (("--weights", "a.pt", "--base-steps", "9"), "--base-steps: without --weights"),
        (("--steps", "3"), "unrecognized arguments: --steps 3"),
    ],
)
def test_bad_input_is_one_sentence(refusal, options, words, tmp_path):
    line = ["--ladder", "finetune", "--preset", "tiny", "--device", "cpu", "--base-steps", "0"]
    line = line[:-2] if "--base-steps" in options or "--weights" in options else line
    assert words in refusal(command.main, [*line, *options, "--out", str(tmp_path / "new")])


def test_a_text_that_is_too_short_to_cut_is_one_sentence(refusal, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("hardly anything")
    line = ["--ladder", "finetune", "--preset", "tiny", "--tasks", str(short), str(short)]
    assert "--context 64: longer than the text" in refusal(command.main, line)


def test_a_target_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="--targets c_attn: no layer of the model; allowed: W_qu"):
        model_at(recipe_at(4, targets=("W_query", "c_attn")), TINY)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory, texts):
    """Rungs 0 and 4 measured for real, with the tries for the learning rate."""
    out = tmp_path_factory.mktemp("climbed")
    shape = ("--layers", "1", "--emb-dim", "32", "--context", "32", "--base-steps", "0")
    line = ("--ladder", "finetune", "--preset", "tiny", "--device", "cpu", *shape, "--only", "0,4")
    more = ("--tasks", *texts, "--updates", "4", "--rounds", "1", "--json", "--out", str(out))
    return out, climb(*line, *more, OMP_NUM_THREADS="1"), (*line, *more)


def test_the_command_measures_and_keeps_what_was_tried(climbed):
    out, done, _ = climbed
    assert done.returncode == 0, done.stderr + done.stdout
    found = last_json(done)
    assert (found["ok"], found["failed"]) == (2, 0)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    lora = next(record for record in records if record["rung"] == 4)
    assert list(lora["candidates"]) == ["0.001", "0.003", "0.01"]
    assert not lora["refused"]
    best = max(lora["candidates"], key=lora["candidates"].get)
    assert lora["recipe"]["learning_rate"] == float(best)
    assert lora["measurement"]["seed"] == 1
    again = climb(*climbed[2], "--resume", OMP_NUM_THREADS="1")
    assert "2 of 2 measurements are kept" in again.stdout, again.stderr
    assert (out / "reached.png").exists()
    assert "parts, 4,608 parameters moved" in lora["measurement"]["in_effect"]["4"]


def test_the_picture_says_how_near_the_fewest_come(climbed):
    out, *_ = climbed
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert title([]) == "Loss over trained parameters"
    whole = copy.deepcopy(records[-1])
    whole["rung"], whole["name"] = 1, "Full fine-tuning"
    whole["measurement"]["trainable_parameters"] = 460_800
    whole["measurement"]["held_out_loss"] -= 0.5
    figure = reached_figure([*records, whole])
    said = "LoRA on all linear layers: 1.00% of the parameters, +0.500 nats over full fine-tuning"
    assert said in " ".join(figure.get_suptitle().split())


def test_the_scripts_methods_are_the_rungs():
    for name, number in {"full": 1, "lora": 4, "qlora": 10}.items():
        assert METHODS[name](PLAIN) == recipe_at(number)
    assert METHODS["dora"](PLAIN).part is DoRA
    assert METHODS["lora-qv"](PLAIN).trains == PARTS
    assert all(LADDER.numerics(n) is Numerics.DIFFERENT_WORK for n in TRAINED)

"""The memory ladder: what is counted, and that no saving changes what is trained."""

import json
from dataclasses import fields, replace

import pandas as pd
import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional as F

from common.accelerator.device import describe
from common.cli import run as command
from common.engine.contract import NotEquivalent, NotInEffect, Numerics
from common.gpt.model import LogitsLoss, parameter_count
from common.gpt.shape import Shape
from common.workloads.parallel.inspect import peak_within
from common.workloads.train import update as updates
from common.workloads.train.adamw8 import BLOCK, FIRST, SECOND, AdamW8, decoded, encoded
from common.workloads.train.build import build, seed_dropout, train_step
from common.workloads.train.chunked_loss import ChunkedLoss, HeadLoss
from common.workloads.train.equivalence import check
from common.workloads.train.held import KINDS, TensorMemory
from common.workloads.train.memory import MEMORY, WINDOWS, MemorySession
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.recipe import Recipe
from common.workloads.train.settings import Settings
from common.workloads.train.tensor_memory import count_update, states
from common.workloads.train.update_check import answers_of_update, given, of_unequal_length
from ladders.memory import LADDER, foot, step12_offload
from ladders.memory.step05_checkpointing import CheckpointedBlock
from ladders.memory.step06_selective_checkpointing import KeepsAttention, KeepsProducts
from tests.conftest import PROJECT, SMALL, climb

CPU, HERE = torch.device("cpu"), replace(describe("cpu"), native_bf16=True)
NUMBERS = range(1, LADDER.top + 1)
PLAIN = Recipe(dropout=0.0, batch_size=WINDOWS)
FOOT = foot(PLAIN, HERE)
ON_CPUS = [
    n for n in NUMBERS if LADDER.rung(n).applies(replace(HERE, native_bf16=True), FOOT) is None
]
MIB = 2**20


def recipe_at(number: int, **changes) -> Recipe:
    """As it is climbed on a CPU that has bfloat16."""
    chain = [n for n in LADDER.chain(number) if n in ON_CPUS or n == number]
    return replace(LADDER.compose(FOOT, chain), **changes)


def batch(shape: Shape = SMALL, windows: int = WINDOWS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (windows, shape.context + 1), generator=generator)
    return ids[:, :-1].clone(), ids[:, 1:].clone()


def warm(recipe: Recipe, shape: Shape = SMALL):
    """A run that has made an update, and a batch for the next."""
    made, ids = build(recipe, shape, CPU), batch(shape, recipe.batch_size)
    train_step(made, *ids)
    return made, ids


def counted(recipe: Recipe, shape: Shape = SMALL):
    made, ids = warm(recipe, shape)
    return count_update(made, lambda: train_step(made, *ids))


def gradients(recipe: Recipe, ids=None, shape: Shape = SMALL):
    """The loss, and what the optimizer is given."""
    made = build(recipe, shape, CPU)
    with given(made) as found:
        loss = train_step(made, *(ids or batch(shape)))
    named = {name: found[p] for name, p in made.inner.named_parameters() if p in found}
    return {"loss": loss, **named}


def apart(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max(((a[k] - b[k]).norm() / a[k].norm().clamp_min(1e-9)).item() for k in a)


# -- the count --


@pytest.mark.parametrize("number", [0, 2, 5, 6, 7, 8])
def test_torchs_own_tracker_counts_the_same(number):
    """It takes one pass through each module: no parts, no chunks."""
    made, ids = warm(recipe_at(number, accumulation=1, objective=LogitsLoss))
    own = count_update(made, lambda: train_step(made, *ids))
    tracker = MemTracker()
    tracker.track_external(made.model, made.optimizer, *ids)
    with tracker:
        train_step(made, *ids)
    theirs = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    assert own.peak == pytest.approx(theirs, abs=0.1 * MIB, rel=0.002)


@pytest.mark.parametrize("number", [0, 3, 4, 6, 10])
def test_the_allocator_counts_the_same(number):
    """As torch's profiler sees it, which also sees what operators take for a moment.

    Of rung 8 that is 0.12 MiB here, where bfloat16 is worked on in float32.
    """
    made, ids = warm(recipe_at(number))
    own = count_update(made, lambda: train_step(made, *ids))
    if number:  # it does not see the end of what was there before
        made.optimizer.zero_grad()
    parameters = [*made.model.parameters()]
    held = (*parameters, *states(made.optimizer), *ids, *(p.grad for p in parameters))
    before = sum(tensor.nbytes for tensor in held if tensor is not None)
    peak = before + peak_within(CPU, lambda: train_step(made, *ids))
    assert own.peak == pytest.approx(peak, abs=0.1 * MIB, rel=0.01)


def by_formula(shape: Shape, windows: int, kept: int) -> int:
    """Bytes; of float32, SDPA, no dropout. `kept`: tensors (B, T, C) of a block.

    At the loss: weights and moments, what is kept and three more, and three tensors of logits' size
    (their logarithmic softmax, its gradient, theirs); in the update: weights, gradients, moments.
    """
    tokens, weights = windows * shape.context, parameter_count(shape, shape.vocab_size)
    hidden = 4 * tokens * shape.emb_dim * (kept * shape.layers + 3)
    return max(12 * weights + hidden + 12 * tokens * shape.vocab_size, 16 * weights)


@pytest.mark.parametrize("kept", [16, 1])
@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        (PRESETS["tiny"].shape, 8),  # logits are most of it
        (Shape(layers=6, heads=4, emb_dim=64, context=128, vocab_size=997), 8),  # activations
        (Shape(layers=3, heads=2, emb_dim=128, context=32, vocab_size=1009), 1),  # the update
    ],
)
def test_the_formula_is_within_two_per_cent(shape, windows, kept):
    block = recipe_at(2).block if kept == 16 else CheckpointedBlock
    found = counted(recipe_at(2, batch_size=windows, block=block), shape)
    if kept == 1 and shape.vocab_size == 997:  # where little else is there, one block is the peak
        assert found.peak < by_formula(shape, windows, 16)
        return
    assert found.peak == pytest.approx(by_formula(shape, windows, kept), rel=0.02)


def test_ten_counts_are_one_number():
    made, ids = warm(recipe_at(10))
    here = {count_update(made, lambda: train_step(made, *ids)).peak for _ in range(5)}
    anew = {counted(recipe_at(10)).peak for _ in range(5)}
    assert len(here | anew) == 1


@pytest.mark.parametrize("number", [0, *ON_CPUS])
def test_the_parts_are_the_peak(number):
    recipe = recipe_at(number)
    made, ids = warm(recipe)
    found = count_update(made, lambda: train_step(made, *ids))
    weights = sum(p.nbytes for p in made.model.parameters())
    assert sum(found.parts.values()) == found.peak
    assert found.parts["parameter"] == weights
    assert found.parts["optimizer"] == sum(state.nbytes for state in states(made.optimizer))
    assert found.gradients == weights if number < 10 else found.gradients < 0.6 * weights
    assert found.before["gradient"] == (weights if number == 0 else 0)


def test_a_storage_counts_once_from_birth_to_end():
    base = torch.zeros(1000)
    memory = TensorMemory()
    with memory:
        view = base[10:20]  # of a storage that was there
        assert memory.live["cpu"] == 4000
        made = view + 1
        other = made.view(2, 5)
        assert memory.live["cpu"] == 4040
        del made
        assert memory.live["cpu"] == 4040  # its view still looks at it
        del other
        assert memory.live["cpu"] == 4000
        grown = torch.empty(0)
        torch.ones(3, out=grown)  # resized in place
        assert memory.live["cpu"] == 4012
    assert memory.peaks["cpu"] == 4040


def test_a_peak_that_is_met_late_was_there_all_the_time():
    memory, late = TensorMemory(), torch.zeros(100)
    with memory:
        one = torch.zeros(50)
        del one
        late.add_(1)
    assert memory.peaks["cpu"] == 600


def test_what_the_forward_pass_keeps_is_told_from_what_it_takes_for_a_moment():
    whole, checkpointed = (counted(recipe_at(2, block=b)) for b in (FOOT.block, CheckpointedBlock))
    tensor = 4 * WINDOWS * SMALL.context * SMALL.emb_dim
    saved = whole.parts["activation"] - checkpointed.parts["activation"]
    assert saved / tensor == pytest.approx(15 * SMALL.layers, rel=0.05)


# -- what the rungs compute --


@pytest.mark.parametrize("number", [0, *ON_CPUS])
def test_every_rung_passes_the_gate(number):
    base = LADDER.rung(number).base if number else 0
    claim = LADDER.numerics(number)
    found = check(recipe_at(number), recipe_at(base), PLAIN, claim, CPU, answers_of_update)
    assert found.error < 0.6 * found.limit
    assert found.same_as_below == (claim is Numerics.EXACT)


class MeanOfMeans(updates.Update):
    """The mistake of transformers issue 34191: parts weigh alike, however long they are."""

    def follow(self, objective, inputs, targets, share=None):
        return super().follow(objective, inputs, targets, torch.tensor(1 / self.parts))


class ForgetsToUnscale(updates.Update):
    def apply(self, optimizer, parameters):
        optimizer.step()
        return True


class NeverZeroes(torch.optim.AdamW):
    def zero_grad(self, set_to_none=True):
        pass


def test_gradients_of_the_update_before_are_told_by_the_gate():
    with pytest.raises(NotEquivalent):
        wrong = replace(FOOT, optimizer=NeverZeroes)
        check(wrong, FOOT, PLAIN, Numerics.LOWER_PRECISION, CPU, answers_of_update)


@pytest.mark.parametrize(
    ("fault", "changes"),
    [(MeanOfMeans, {"accumulation": 8}), (ForgetsToUnscale, {"loss_scaling": True})],
)
def test_a_wrong_update_is_stopped_by_the_gate(monkeypatch, fault, changes):
    recipe = replace(FOOT, **changes)
    check(recipe, FOOT, PLAIN, Numerics.ROUNDING, CPU, answers_of_update)
    monkeypatch.setattr("common.workloads.train.build.Update", fault)
    with pytest.raises(NotEquivalent):
        check(recipe, recipe, PLAIN, Numerics.LOWER_PRECISION, CPU, answers_of_update)


def test_windows_of_unequal_length_weigh_by_their_tokens():
    inputs, targets = batch()
    ids = inputs, of_unequal_length(targets)
    lengths = (ids[1] != updates.IGNORED).sum(dim=1).tolist()
    assert lengths == sorted(set(lengths), reverse=True)
    assert lengths[-1] > 0
    whole = gradients(FOOT, ids)
    for objective in (LogitsLoss, ChunkedLoss):
        parts = gradients(replace(FOOT, accumulation=8, objective=objective, loss_rows=5), ids)
        assert apart(whole, parts) < 2e-5


@pytest.mark.parametrize("rows", [1, 5, 32, 100])
def test_the_chunked_loss_is_cross_entropy(rows):
    """In float64, whatever the chunk, with a target that is not counted."""
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    hidden, weight = torch.randn(32, 8, **draw), torch.randn(50, 8, **draw)
    targets = torch.randint(50, (32,), generator=generator).index_fill(0, torch.tensor([7]), -100)
    wanted = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    found = HeadLoss.apply(hidden, weight, targets, rows)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    each = (torch.autograd.grad(2.5 * loss, (hidden, weight)) for loss in (wanted, found))
    for a, b in zip(*each, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("block", [CheckpointedBlock, KeepsAttention, KeepsProducts])
def test_dropout_draws_the_same_with_and_without_checkpointing(block):
    found = []
    for one in (FOOT.block, block):
        plain = replace(FOOT, dropout=0.3, attention=PLAIN.attention, block=one)
        made = build(plain, SMALL, CPU)
        seed_dropout(3)
        with given(made) as told:
            loss = train_step(made, *batch())
        found.append({"loss": loss, **dict(enumerate(told.values()))})
    assert all(map(torch.equal, found[0].values(), found[1].values()))


@pytest.mark.parametrize(("block", "times"), [(CheckpointedBlock, 2), (KeepsAttention, 2)])
def test_forward_passes_through_blocks_are_counted(block, times):
    found = counted(recipe_at(4, block=block))
    assert found.forwards == WINDOWS
    assert found.blocks == times * SMALL.layers * WINDOWS
    assert counted(recipe_at(4)).blocks == SMALL.layers * WINDOWS


def test_attention_that_is_kept_is_not_computed_again():
    name = "aten._scaled_dot_product_flash_attention_for_cpu.default"
    again, kept = (counted(recipe_at(number)).calls[name] for number in (5, 6))
    assert (again, kept) == (2 * SMALL.layers * WINDOWS, SMALL.layers * WINDOWS)


def test_a_scaler_changes_neither_gradients_nor_clipping():
    whole = gradients(FOOT)
    norm = sum(v.norm() ** 2 for k, v in whole.items() if k != "loss").sqrt().item()
    for accumulation in (1, 8):
        plain = replace(FOOT, accumulation=accumulation)
        assert apart(whole, gradients(replace(plain, loss_scaling=True))) < 2e-5
        clipped = gradients(replace(plain, clip_norm=norm / 2))
        scaled = gradients(replace(plain, clip_norm=norm / 2, loss_scaling=True))
        assert apart(clipped, scaled) < 2e-5
        half = {k: v if k == "loss" else v / 2 for k, v in whole.items()}
        assert apart(half, clipped) < 1e-4  # of the whole batch's norm, not of a part's


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_trains_nothing_and_is_counted(fused):
    settings = Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2)
    recipe = replace(FOOT, batch_size=2, loss_scaling=True, fused_optimizer=fused)
    session = MemorySession(recipe, settings, CPU)
    session.step()
    before = [parameter.clone() for parameter in session.run.model.parameters()]
    poison = session.run.inner.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    session.step()
    poison.remove()
    assert (session.run.skipped, session.updates) == (1, 1)
    assert all(map(torch.equal, before, session.run.model.parameters()))
    session.ready()
    session.begin()
    session.step()
    session.audit()  # raises Disturbed where a step is missing
    assert (session.run.skipped, session.updates) == (1, 2)


def trained(recipe: Recipe, steps: int) -> tuple[list[float], list[torch.Tensor]]:
    made = build(recipe, SMALL, CPU)
    generator = torch.Generator().manual_seed(1)
    shift = torch.randint(509, (509,), generator=generator)  # something to be learned
    losses = []
    for _ in range(steps):
        ids = torch.randint(509, (WINDOWS, SMALL.context), generator=generator)
        losses.append(train_step(made, ids, shift[ids]).item())
    return losses, [*made.model.parameters()]


def test_updates_in_backward_are_adamws_bit_for_bit():
    for changes in ({}, {"fused_optimizer": True}):
        plain, ours = (trained(replace(FOOT, in_backward=b, **changes), 5) for b in (False, True))
        assert plain[0] == ours[0]
        assert all(map(torch.equal, plain[1], ours[1]))


def test_updates_in_backward_follow_a_schedule():
    made = build(replace(FOOT, in_backward=True), SMALL, CPU)
    before = [parameter.clone() for parameter in made.model.parameters()]
    made.rates.peaks = [0.0 for _ in made.rates.peaks]
    train_step(made, *batch())
    assert all(map(torch.equal, before, made.model.parameters()))


def test_eight_bit_moments_train_as_adamw_does():
    (plain, _), (ours, _) = (
        trained(replace(FOOT, optimizer=kind, learning_rate=3e-3), 50)
        for kind in (torch.optim.AdamW, AdamW8)
    )
    assert plain[-1] < plain[0] - 1
    assert max(abs(a - b) for a, b in zip(plain, ours, strict=True)) < 0.02


def test_the_codes_of_eight_bits():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, BLOCK, generator=generator)
    back = decoded(*encoded(values, *FIRST, None), *FIRST).view(4, BLOCK)
    assert (back - values).norm() < 0.02 * values.norm()
    assert ((back - values).abs() <= values.abs().amax(dim=1, keepdim=True) / 127).all()
    squares = values**2
    mean = torch.stack([
        decoded(*encoded(squares, *SECOND, torch.rand(4, BLOCK, generator=generator)), *SECOND)
        for _ in range(400)
    ]).mean(dim=0)  # fmt: skip
    large = squares.flatten() > 0.01
    assert ((mean / squares.flatten())[large] - 1).abs().max() < 0.02  # rounding has the right mean


# -- rungs --


@pytest.mark.parametrize("number", NUMBERS)
def test_exactly_the_declared_fields_change(number):
    rung = LADDER.rung(number)
    below = LADDER.compose(FOOT, LADDER.chain(rung.base))
    above = rung.apply(below)
    changed = {f.name for f in fields(above) if getattr(below, f.name) != getattr(above, f.name)}
    assert changed == set(rung.changes)
    assert Recipe.from_json(json.loads(json.dumps(above.to_json()))) == above
    assert Recipe.from_record(above.to_json()) == above
    files = sorted((PROJECT / "ladders" / "memory").glob("step*.py"))
    assert rung.module.__name__ == f"ladders.memory.{files[number - 1].stem}"


@pytest.mark.parametrize("number", [n for n in ON_CPUS if n != 2])  # 2 looks into a profile
def test_a_probe_tells_the_rung_from_what_it_stands_on(number):
    rung = LADDER.rung(number)
    for at, fails in ((number, False), (rung.base, True)):
        made, ids = warm(recipe_at(at))
        made.counted = count_update(made, lambda m=made, i=ids: train_step(m, *i))
        if not fails:
            assert rung.in_effect(made)
        elif number != 6:  # below it another block is there
            with pytest.raises(NotInEffect):
                rung.in_effect(made)


def test_bytes_on_the_host_are_asked_for_of_the_offload():
    made, ids = warm(recipe_at(11))
    made.batch = ids
    made.counted = replace(count_update(made, lambda: train_step(made, *ids)), host=2048)
    with pytest.raises(NotInEffect, match="no more than the batch"):
        step12_offload.in_effect(made)
    made.counted = replace(made.counted, host=8 * MIB)
    assert step12_offload.in_effect(made) == "8.0 MiB on the host"


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"accumulation": 2}, "accumulation"), ({"clip_norm": 1.0}, "clipping"),
     ({"loss_scaling": True}, "a scaler")],
)  # fmt: skip
def test_what_excludes_another_says_so(changes, word):
    with pytest.raises(ValueError, match=f"^an update in the backward pass excludes {word}: "):
        build(replace(FOOT, in_backward=True, **changes), SMALL, CPU)
    reason = LADDER.rung(10).applies(HERE, replace(FOOT, **changes))
    assert word == "accumulation" or f"excludes {word}" in reason


def test_at_the_top_a_quarter_of_the_foots_memory_is_enough():
    """At the tiny preset; equal tokens."""
    shape = PRESETS["tiny"].shape
    assert counted(recipe_at(LADDER.top), shape).peak < 0.25 * counted(FOOT, shape).peak


# -- the command --


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """Some of the ladder, in two rounds."""
    out = tmp_path_factory.mktemp("memory")
    options = ("--preset", "tiny", "--device", "cpu", "--steps", "2", "--layers", "1")
    options += ("--only", "0,6,11,12", "--rounds", "2", "--out", str(out))
    done = climb("--ladder", "memory", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return out, done.stdout, records


def test_two_rounds_count_the_same_to_the_byte(climbed):
    _, _, records = climbed
    assert {record["round"] for record in records} == {1, 2}
    for number in (0, 6, 11):
        found = [r["measurement"]["tensors"] for r in records if r["rung"] == number]
        assert len(found) == 2
        assert found[0] == found[1]


def test_the_csv_has_every_byte(climbed):
    out, _, records = climbed
    row = pd.read_csv(out / "ladder.csv").set_index("rung").loc[0]
    tensors = next(r for r in records if r["rung"] == 0)["measurement"]["tensors"]
    assert f",{tensors['peak']}," in (out / "ladder.csv").read_text()
    assert row["peak_tensor_bytes"] == tensors["peak"]
    assert sum(row[f"{kind}_bytes"] for kind in KINDS) == row["peak_tensor_bytes"]
    assert row["tok_per_s"] > 0
    assert row["validation_loss"] > 8


def test_the_table_speaks_of_memory(climbed):
    out, said, records = climbed
    lines = {int(line[:2]): line for line in said.splitlines() if line[:2].strip().isdigit()}
    assert "does not apply: a CPU's memory is the host's" in said
    assert "peak MiB, divided by" in said
    assert "tried: attention " in said
    assert lines.keys() >= {0, 6, 11, 12}
    assert max(map(len, said.splitlines())) <= 100
    assert (out / "ladder.png").exists()
    assert all(r["measurement"]["tokens_per_step"] == WINDOWS * 64
               for r in records if r["status"] == "ok")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "rung", "reason"),
    [
        (("--batch-size", "3"), 3, "8 parts do not divide a batch of 3 windows"),
        (("--clip-norm", "1"), 10, "an update in the backward pass excludes clipping"),
        ((), 9, "float16 products are for CUDA and Intel GPUs; this is cpu"),
    ],
)
def test_what_does_not_fit_together_is_a_sentence(options, rung, reason):
    line = ["--ladder", "memory", "--preset", "tiny", "--device", "cpu", *options]
    plan, planned = command.make_plan(*command.parse(line))
    assert planned.settings.validate
    below = LADDER.compose(plan.baseline, LADDER.chain(LADDER.rung(rung).base))
    assert LADDER.rung(rung).applies(plan.device, below).startswith(reason)


@pytest.mark.parametrize("value", ["0", "-1", "inf", "x"])
def test_a_norm_is_a_number_above_0(refusal, value):
    said = refusal(command.parse, ["--ladder", "memory", f"--clip-norm={value}"])
    assert "must be a number above 0" in said


@pytest.mark.parametrize("preset", ["tiny", "cpu"])
def test_every_rung_has_the_same_tokens(preset):
    line = ["--ladder", "memory", "--preset", preset, "--device", "cpu"]
    plan, _ = command.make_plan(*command.parse(line))
    assert plan.baseline.batch_size == WINDOWS != baseline(preset).batch_size
    assert plan.turns is None
    assert plan.settings.steps == 3
    assert MEMORY.headline.name == "peak_tensor_bytes"

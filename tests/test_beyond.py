"""Beyond the steps' top: a rung computes what the one below it does, and choices are measured."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch.nn import functional as F
from torch.nn.attention import SDPBackend as Kernel

from common.accelerator import pages
from common.accelerator.compiler import cuda_graph_skips
from common.accelerator.device import describe
from common.cli import run as command
from common.cli.display import Display
from common.engine import children, process
from common.engine.child import prober
from common.engine.climb import Climb
from common.engine.contract import NotEquivalent, NotInEffect, Numerics
from common.engine.device import DeviceFacts
from common.engine.job import Job
from common.engine.ladder import rung_named
from common.engine.plan import Plan
from common.engine.records import Records
from common.engine.rungs import REFERENCE
from common.engine.settle import best
from common.engine.workload import Launch
from common.gpt.model import CausalAttention, Linear, StoredMask
from common.gpt.text import Endless, Windows
from common.report.frame import to_frame
from common.report.tables import to_brief_markdown, to_markdown, to_text
from common.workloads.train import blockwise_attention, softmax_in_place
from common.workloads.train.batches import make_loader
from common.workloads.train.build import build
from common.workloads.train.equivalence import check
from common.workloads.train.head_in_chunks import HeadLoss
from common.workloads.train.int8_softmax import int8_softmax_in_place, rounded
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.recipe import Recipe
from common.workloads.train.settings import Settings
from common.workloads.train.softmax_in_place import InPlaceLoss
from common.workloads.train.softmax_in_place import softmax_in_place as in_place
from common.workloads.train.workload import TRAINING
from ladders.beyond import AT_THIS_BATCH, LADDER, foot, step14_compile_mode, under
from ladders.beyond import step02_page_faults as page_faults
from ladders.beyond.step03_chunked_head import TorchLoss
from ladders.beyond.step08_rows_that_were_read import Embedding
from ladders.beyond.step09_gelu_by_a_sigmoid import SigmoidGELU
from ladders.beyond.step10_int8_logits import Int8Loss
from ladders.beyond.step12_attention_backend import Flash
from ladders.beyond.step13_resident_tokens import ResidentLoader
from ladders.beyond.step15_float8 import Float8Linear
from steps import LADDER as STEPS
from steps import step02_tf32, step05_bfloat16, step07_flash_attention, step08_compile
from tests import bench_shapes
from tests.conftest import PROJECT, SMALL, measured

CPU = torch.device("cpu")
NUMBERS = range(1, LADDER.top + 1)
PLAIN = Recipe(dropout=0.0, batch_size=2)  # below all rungs of any ladder
FOOT = STEPS.compose(PLAIN, AT_THIS_BATCH)  # whether a step applies here or not
STUB = Launch(command=(sys.executable, "-S", str(Path(__file__).with_name("stub_child.py"))))


H100 = DeviceFacts(
    type="cuda",
    name="NVIDIA H100 80GB HBM3",
    vendor="nvidia",
    memory_gib=80.0,
    native_bf16=True,
    capability=(9, 0),
)


def number_of(title: str) -> int:
    return next(number for number in NUMBERS if LADDER.title(number) == title)


# where each side's own rungs lie
ON_CPUS = range(number_of("Product format"), number_of("int8 logits") + 1)
ON_GPUS = range(number_of("No dropout"), number_of("Largest batch") + 1)
CHUNKED, PRODUCTS, INT8 = map(number_of, ("Chunked head and loss", "Product format", "int8 logits"))
ATTENTION, FLOAT8 = map(number_of, ("Attention backend", "float8 products"))


def recipe_at(number: int, **changes) -> Recipe:
    """As it is climbed: a GPU's rungs leave out a CPU's. Theirs is run here with a CPU's kernel."""
    above_cpus = number >= min(ON_GPUS)
    numbers = [n for n in LADDER.chain(number) if not (above_cpus and n in ON_CPUS)]
    recipe = LADDER.compose(FOOT, numbers)
    if number >= ATTENTION:
        changes = {"attention": Flash, "batch_size": 2} | changes
    return replace(recipe, **changes)


@pytest.mark.parametrize("number", NUMBERS)
def test_float32_tells_wrong_code_from_low_precision(number):
    """Loss and every gradient against the baseline in float64, uncompiled."""
    recipe = recipe_at(number, dtype=torch.float32, compile=False)
    if recipe.objective is Int8Loss:  # 8 bits are never float32: tests of their own
        recipe = replace(recipe, objective=InPlaceLoss)
    if number >= FLOAT8:
        recipe = replace(recipe, linear=Linear)
    found = check(recipe, PLAIN, PLAIN, Numerics.ROUNDING, CPU)
    assert found.error < 2e-6
    assert found.loss_error < 1e-6


def test_compiled_and_in_bfloat16_the_top_is_still_the_same_model():
    """A CPU's top: on a GPU the runner's own check says it for the other one."""
    found = check(recipe_at(ON_CPUS[-1]), PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)
    assert found.error < found.limit == 0.1


@pytest.mark.parametrize("rows", [1, 5, 32, 100, None])
def test_a_head_of_ours_is_cross_entropy(rows, monkeypatch):
    """In float64, whatever the chunk: the last one may be smaller, or the only one; or in place."""
    monkeypatch.setattr(softmax_in_place, "COLUMNS", 16)  # and 2 are left over
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(32, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (32,), generator=generator)
    expected = F.cross_entropy(hidden @ weight.T, targets)
    if rows:
        found = HeadLoss.apply(hidden, weight, targets, rows)
    else:
        found = softmax_in_place.HeadLoss.apply(hidden, weight, targets, in_place)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    wanted = torch.autograd.grad(2.5 * expected, (hidden, weight))
    given = torch.autograd.grad(2.5 * found, (hidden, weight))
    for a, b in zip(wanted, given, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kind", "more"),
    [(HeadLoss, (2,)), (softmax_in_place.HeadLoss, (in_place,))],
)
def test_large_logits_do_not_overflow(kind, more):
    hidden = torch.full((4, 2), 300.0, requires_grad=True)
    weight = torch.tensor([[300.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = kind.apply(hidden, weight, torch.tensor([0, 0, 1, 1]), *more)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_exactly_the_declared_fields_change(number):
    rung = LADDER.rung(number)
    below = replace(LADDER.compose(FOOT, LADDER.chain(LADDER.rung(number).base)), dropout=0.1)
    above = rung.apply(below)
    changed = {f.name for f in fields(above) if getattr(below, f.name) != getattr(above, f.name)}
    assert changed == set(rung.changes)
    assert Recipe.from_json(json.loads(json.dumps(above.to_json()))) == above


@pytest.mark.parametrize("number", NUMBERS)
def test_titles_and_expectations(number):
    rung = LADDER.rung(number)
    assert rung.module.__doc__.startswith(f"{number}. {LADDER.title(number)}.")
    assert f"step{number:02d}_" in rung.module.__name__
    assert "Expected: " in rung.module.__doc__  # said before it was measured


def test_the_foot_is_the_steps_top_at_the_workloads_own_batch(monkeypatch):
    """On a device where every step applies all that differs from the top is the batch."""
    monkeypatch.setattr(step08_compile, "missing_compiler", lambda device: None)
    plain = Recipe(batch_size=3)
    on_one = [rung.number for rung in STEPS.rungs if "data" not in rung.changes]
    assert foot(plain, H100) == replace(STEPS.compose(plain, on_one), batch_size=plain.batch_size)
    assert under(plain, H100) == [f"steps {number}" for number in AT_THIS_BATCH]
    assert [rung_named(name) for name in under(plain, H100)] == [
        rung for rung in STEPS.rungs if not {"batch_size", "data"} & {*rung.changes}
    ]


def test_a_step_that_does_not_apply_is_not_in_the_foot():
    """Each is asked on top of those before it: no fused attention in float32 on that card."""
    t4 = replace(H100, name="Tesla T4", capability=(7, 5), native_bf16=False)
    recipe, names = foot(Recipe(), t4), under(Recipe(), t4)
    assert recipe.dtype is torch.float32
    assert recipe.attention is Recipe().attention
    modules = {rung_named(name).number for name in names}
    assert not modules & {step02_tf32, step05_bfloat16, step07_flash_attention}
    assert recipe.vocab_multiple > 1


def test_its_numbers_are_its_own():
    """From 1 on: nothing shifts when somebody adds a rung to `steps`."""
    assert LADDER.title(1) == "Loss in the graph"
    files = sorted((PROJECT / "ladders" / "beyond").glob("step*.py"))
    assert [rung.module.__name__ for rung in LADDER.rungs] == [
        f"ladders.beyond.{f.stem}" for f in files
    ]
    assert LADDER.chain(LADDER.top) == [*NUMBERS]


def test_one_state_dict_fits_the_top():
    low = build(FOOT, SMALL, CPU)
    for top in (ON_CPUS[-1], LADDER.top):
        high = build(recipe_at(top, vocab_multiple=1), SMALL, CPU)
        assert low.model.state_dict().keys() == high.model.state_dict().keys()


def test_held_out_text_is_evaluated_after_the_window():
    settings = Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2)
    assert measured(baseline("tiny"), settings).validation_loss is None
    found = measured(baseline("tiny"), replace(settings, validate=True))
    assert 8 < found.validation_loss < 13  # about log(50,257), barely trained


def climb(folder: Path, numbers: tuple[int, ...], resume=False, device=None) -> list[dict]:
    """The beyond ladder with children that answer at once; 256 tokens are the fastest there."""
    plain, device = baseline("tiny"), device or describe("cpu")
    plan = Plan(
        ladder=LADDER,
        baseline=foot(plain, device),
        plain=plain,
        under=tuple(under(plain, device)),
        device=device,
        settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
        numbers=numbers,
        preset="tiny",
        timeout=30.0,
    )
    with Display(plan) as display:
        display.console.quiet = True
        one = Climb(plan, Records(folder / "records.jsonl"), display)
        if resume:
            one.resume()
        one.run()
    return one.records.read()


def test_what_a_rung_leaves_open_is_measured_recorded_and_carried_up(tmp_path, monkeypatch):
    jobs = []

    def stub(job, timeout, tell, watch):
        jobs.append(job.to_json())
        return process.run_job(job, timeout, tell, watch, launch=STUB)

    monkeypatch.setattr(children, "run_job", stub)
    records = climb(tmp_path, (CHUNKED,))
    tried = records[0]["candidates"]
    sizes = {"128 tokens", "256 tokens", "1024 tokens"}
    torchs = {"torch's, 256 tokens"} if hasattr(F, "linear_cross_entropy") else set()
    assert set(tried) == sizes | torchs | {"whole logits"}
    assert max(tried, key=tried.get) == "256 tokens"
    assert (
        best({"a": None, "b": 98.0, "c": 100.0, "d": 90.0}, TRAINING) == "b"
    )  # too near to prefer c
    assert best({"a": 90.0, "b": 96.0, "c": None, "d": 100.0}, TRAINING) == "d"
    assert records[0]["recipe"]["loss_rows"] == 256
    assert "whole logits" in records[0]["note"]
    first = len(jobs)
    assert first == 1 + 2 * len(tried) + 1  # ceilings, the candidates twice, the rung
    records = climb(tmp_path, (CHUNKED, CHUNKED + 1), resume=True)
    assert len(jobs) == first + 1  # what was chosen is not tried again
    above = records[-1]
    assert (above["rung"], above["recipe"]["loss_rows"]) == (CHUNKED + 1, 256)
    assert above["candidates"] == {}


@pytest.fixture
def installed(monkeypatch):
    """Says which libraries a system has, by name."""

    def say(**found: str) -> None:
        pages.choices.cache_clear()
        monkeypatch.setattr(pages, "find_library", found.get)

    yield say
    pages.choices.cache_clear()


def started_with(recipe: Recipe) -> process.Outcome:
    """Of a process whose memory comes as the recipe says."""
    number = next(rung.number for rung in LADDER.rungs if rung.module is page_faults)
    job = Job(
        workload=TRAINING,
        ladder=LADDER.address,
        applied=(number,),
        recipe=recipe,
        settings=Settings(shape=PRESETS["tiny"].shape, device="cpu"),
    )
    return process.run_job(job, 60.0)


def test_settings_reach_the_process_before_it_starts():
    outcome = started_with(page_faults.apply(baseline("tiny")))
    assert outcome.status == "ok", outcome.log
    assert [*outcome.measurement["in_effect"].values()] == ["kept pages"]


@pytest.mark.parametrize("name", ["libtcmalloc.so", "libother.so"])
def test_another_allocator_is_there_from_the_start_or_refused(tmp_path, installed, name):
    """One without functions takes its place: what is proven is that the process has loaded it."""
    library = tmp_path / name
    subprocess.run(
        [get_cpp_compiler(), "-shared", "-o", library, "-x", "c", "/dev/null"], check=True
    )
    installed(tcmalloc=str(library))
    outcome = started_with(page_faults.candidates(describe("cpu"), baseline("tiny"))["tcmalloc"])
    if name == "libother.so":
        assert "started without tcmalloc" in outcome.reason
    else:
        assert [*outcome.measurement["in_effect"].values()] == ["tcmalloc"]


@pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason=f"torch {torch.__version__} has none yet"
)
def test_torchs_own_chunked_loss_is_cross_entropy():
    in_float32 = recipe_at(CHUNKED, dtype=torch.float32, compile=False)
    recipe = replace(in_float32, objective=TorchLoss, loss_rows=32)
    found = check(recipe, PLAIN, PLAIN, Numerics.ROUNDING, CPU)
    assert found.error < 2e-6


def batches(loader: type, batch_size: int, count: int, sampled: bool = True) -> list:
    windows = Windows(torch.arange(1000).to(torch.uint16).numpy(), context=16)
    recipe = replace(FOOT, loader=loader, batch_size=batch_size)
    sampler = Endless(windows, 3) if sampled else None
    return [b for b, _ in zip(make_loader(windows, recipe, sampler), range(count), strict=False)]


@pytest.mark.parametrize("sampled", [True, False])
def test_resident_batches_are_the_loaders(monkeypatch, sampled):
    monkeypatch.setattr("ladders.beyond.step13_resident_tokens.AHEAD", 3)
    wanted = batches(torch.utils.data.DataLoader, 4, 40, sampled)
    found = batches(ResidentLoader, 4, 40, sampled)
    assert len(found) == len(wanted) == (40 if sampled else 16)  # 62 windows; the last batch has 2
    for (a, b), (c, d) in zip(found, wanted, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
        assert a.dtype is torch.int64


def test_float8_is_lower_precision_and_no_worse_than_its_mantissa():
    recipe = recipe_at(FLOAT8, compile=False)
    found = check(recipe, PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)
    assert 0.02 < found.error < 0.2 < found.limit
    assert recipe.linear is Float8Linear
    assert recipe.format == "float8"


def test_int8_rounds_rows_by_their_own_largest_value():
    x = torch.tensor([[127.0, -64.2, 0.4], [0.0, 1e-3, -1e-2], [0.0, 0.0, 0.0]])
    found, factor = rounded(x)
    assert found.tolist() == [[127, -64, 0], [0, 10, -100], [0, 0, 0]]  # a factor has a least value
    torch.testing.assert_close(found * factor[:, None], x, atol=0.5, rtol=0.0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])  # over the products, or not
def test_int8_logits_are_the_loss_of_rounded_operands(compiled, wide, monkeypatch):
    """The loss to the last digit; the gradients are those of the operands before rounding."""
    monkeypatch.setattr("common.workloads.train.int8_softmax.PART", 3)  # tokens of a chunk at once
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(32, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (32,), generator=generator)
    hidden, weight = hidden.to(wide), weight.to(wide)
    loss, powers, divisor = int8_softmax_in_place(hidden, weight, targets, compiled)
    own = powers / divisor
    found = loss, own @ weight, own.T @ hidden
    (a, a_factor), (b, b_factor) = rounded(hidden), rounded(weight)
    logits = (a * a_factor[:, None]).double() @ (b * b_factor[:, None]).double().T
    logits.requires_grad_()
    expected = F.cross_entropy(logits, targets)
    (grad,) = torch.autograd.grad(expected, logits)
    wanted = expected.detach(), grad @ weight.double(), grad.T @ hidden.double()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_int8_logits_are_lower_precision_and_no_worse_than_bfloat16():
    found = check(recipe_at(INT8, compile=False), PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)
    below = check(recipe_at(PRODUCTS, compile=False), PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)
    assert found.error < 1.1 * below.error
    in_float32 = recipe_at(INT8, dtype=torch.float32, compile=False)
    with pytest.raises(NotEquivalent, match=r"off by [1-9]\.\de-04"):  # bfloat16: e-02
        check(in_float32, PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)


@pytest.mark.parametrize("sizes", [(16, 48, 1009), (16, 40, 64), (15, 48, 64)])
def test_what_float8_products_cannot_take_is_multiplied_as_before(sizes):
    """torch._scaled_mm wants multiples of 16: of tokens, inputs, and outputs."""
    tokens, inputs, outputs = sizes
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, inputs, generator=generator).bfloat16().requires_grad_()
    layer = Float8Linear(inputs, outputs, dtype=torch.bfloat16)
    found = layer(x)
    found.sum().backward()
    assert torch.equal(found, F.linear(x, layer.weight, layer.bias))
    assert x.grad.isfinite().all()


def test_the_check_gives_float8_a_head_that_it_can_multiply(monkeypatch):
    """Where the objective makes its own logits, the vocabulary is not padded."""
    seen = []

    def product(*arguments, **options):
        seen.append(options["use_fast_accum"])
        return scaled_mm(*arguments, **options)

    scaled_mm = torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", product)
    whole = replace(recipe_at(1, compile=False), linear=Float8Linear)  # whole logits, own loss
    check(whole, PLAIN, PLAIN, Numerics.LOWER_PRECISION, CPU)
    layers = 2 * 6 + 1  # the check's model: six products in each of two blocks, and the head
    assert len(seen) == 3 * layers
    assert seen.count(True) == layers  # forward only


def test_expandable_segments_are_seen_in_the_allocators_snapshot():
    grown, fixed = {"is_expandable": True}, {"is_expandable": False}
    assert pages.expandable_segments([grown, fixed]) == "1 of 2 segments expandable"
    with pytest.raises(NotInEffect, match="none of 1"):
        pages.expandable_segments([fixed])


def test_on_cuda_there_is_nothing_to_choose_for_page_faults(installed):
    cpu = describe("cpu")
    installed()
    assert set(page_faults.candidates(cpu, FOOT)) == {"kept pages", "huge pages"}
    installed(tcmalloc_minimal="libtcmalloc_minimal.so.4")
    assert set(page_faults.candidates(cpu, FOOT)) == {"kept pages", "huge pages", "tcmalloc"}
    assert page_faults.candidates(H100, FOOT) == {}
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in page_faults.apply(FOOT).environment


def test_an_accelerator_tries_each_candidate_once(tmp_path, monkeypatch):
    jobs = []

    def stub(job, timeout, tell, watch):
        jobs.append(job.to_json())
        return process.run_job(job, timeout, tell, watch, launch=STUB)

    monkeypatch.setattr(children, "run_job", stub)
    (record,) = climb(tmp_path, (CHUNKED,), device=H100)
    assert len(jobs) == 1 + len(record["candidates"]) + 1


def test_a_cuda_graph_that_was_left_out_is_no_cuda_graph(monkeypatch):
    recipe = replace(FOOT, compile_mode="reduce-overhead")
    run = SimpleNamespace(graphs=1, recipe=recipe)
    assert step14_compile_mode.in_effect(run) == "reduce-overhead"
    monkeypatch.setattr("ladders.beyond.step14_compile_mode.cuda_graph_skips", lambda: 2)
    with pytest.raises(NotInEffect, match="left out 2 CUDA graph"):
        step14_compile_mode.in_effect(run)
    without = SimpleNamespace(graphs=1, recipe=replace(recipe, compile_mode="default"))
    assert step14_compile_mode.in_effect(without) == "default"


def test_cuda_graphs_that_the_compiler_left_out_are_counted(monkeypatch):
    counted = {"inductor": Counter(cudagraph_skips=3)}
    monkeypatch.setattr(torch._dynamo.utils, "counters", counted)
    assert cuda_graph_skips() == 3


def test_flash_attention_is_not_cudnns():
    """torch takes cuDNN's kernel first on some GPUs; that is rung 12's."""
    flash = step07_flash_attention
    assert Kernel.CUDNN_ATTENTION not in flash.FlashAttention.kernels
    run = SimpleNamespace(device=torch.device("cuda"), operators={"aten::_scaled_dot_product_x"})
    for operator, ran in (("cudnn", None), ("efficient", None), ("flash", "flash")):
        run.operators = {f"aten::_scaled_dot_product_{operator}_attention"}
        if ran:
            assert flash.in_effect(run) == ran
        else:
            with pytest.raises(NotInEffect, match=f"{operator} attention ran instead"):
                flash.in_effect(run)


def test_which_rungs_apply_where():
    """Each device gets the other's rungs with a reason."""
    for facts, others in ((H100, ON_CPUS), (describe("cpu"), ON_GPUS)):
        recipe = replace(FOOT, dropout=0.1 if facts is H100 else 0.0)
        for number in NUMBERS:
            reason = LADDER.rung(number).applies(facts, recipe)
            if number in others:
                assert reason, number
            elif number != PRODUCTS and not re.search("compiler|Triton", str(reason)):
                assert reason is None, (number, reason)
            recipe = recipe if reason else LADDER.rung(number).apply(recipe)


def test_a_rung_of_which_nothing_is_left_is_not_asked(monkeypatch):
    """Rung 12 takes the place of rung 4's attention, which took that of step 7's, in the foot."""
    asked = []
    job = {"ladder": LADDER.address, "under": ["steps 1", "steps 7"], "applied": [4, 12]}
    rungs = {name: rung_named(name) for name in job["under"]}
    rungs |= {str(number): LADDER.rung(number) for number in job["applied"]}
    watched = {
        name: replace(rung, in_effect=lambda run, name=name: asked.append(name) or "yes")
        for name, rung in rungs.items()
    }
    ladder = SimpleNamespace(rung=lambda number: watched[str(number)])
    monkeypatch.setattr("common.engine.child.rung_named", watched.get)
    monkeypatch.setattr("common.engine.child.ladder_at", lambda address: ladder)
    assert prober(job)(None) == {"steps 1": "yes", "12": "yes"}
    assert asked == ["steps 1", "12"]


def test_the_steps_baseline_is_measured_before_the_foot(tmp_path, monkeypatch):
    """ "Over the baseline" is over that one; the check before the clock compares with it, too."""
    jobs = []

    def stub(job, timeout, tell, watch):
        jobs.append(job.to_json())
        return process.run_job(job, timeout, tell, watch, launch=STUB)

    monkeypatch.setattr(children, "run_job", stub)
    plain, device = baseline("tiny"), describe("cpu")
    records = climb(tmp_path, (REFERENCE, 0, 1))
    names = [record["name"] for record in records]
    assert names == ["steps' baseline", "top of steps", "Loss in the graph"]
    below, *above = (job for job in jobs if job["kind"] == "rung")
    assert below["recipe"] == plain.to_json()
    assert below["under"] == []
    assert {tuple(job["under"]) for job in above} == {tuple(under(plain, device))}
    assert {json.dumps(job["check"]["baseline"]) for job in jobs if "check" in job} == {
        json.dumps(plain.to_json())
    }
    applied = STEPS.applicable(AT_THIS_BATCH, plain, device)
    frame = to_frame(records, TRAINING).set_index("rung")
    assert frame["x_base"].notna().tolist() == [False, True, True]
    assert frame["x_prev"].notna().tolist() == [False, False, True]
    assert frame.loc[0, "in_effect"] == "steps " + ", ".join(map(str, applied))
    frame = to_frame(records, TRAINING)
    pages = to_markdown(records, TRAINING), to_brief_markdown(records, TRAINING)
    for text in (to_text(frame, TRAINING), *pages):
        assert "steps' baseline" in text
        assert not re.search(rf"(?m)^(\| )?{REFERENCE} ", text)
    measured = len(jobs)
    climb(tmp_path, (REFERENCE, 0, 1), resume=True)
    assert len(jobs) == measured


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ((), (REFERENCE, *range(LADDER.top + 1))),
        (("--only", "0,7"), (REFERENCE, 0, 7)),
        (("--only", "7"), (7,)),
        (("--upto", "1"), (REFERENCE, 0, 1)),
    ],
)
def test_rung_0_brings_the_steps_baseline(options, numbers):
    line = ["--ladder", "beyond", "--preset", "tiny", "--device", "cpu", *options]
    plan, _ = command.make_plan(*command.parse(line))
    assert plan.numbers == numbers
    assert plan.reference == baseline("tiny")
    assert plan.baseline == foot(plan.reference, plan.device)


@pytest.mark.parametrize("tokens", [1, 4, 7, 16, 18])
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_in_blocks_is_causal_attention(tokens, compiled):
    """In float64, whatever the block: the last one may be smaller, or the only one."""
    generator = torch.Generator().manual_seed(tokens)
    heads = [
        torch.randn(2, 3, tokens, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    expected = F.scaled_dot_product_attention(*heads, is_causal=True)
    attend = blockwise_attention.attend
    found = (torch.compile(attend, fullgraph=True) if compiled else attend)(*heads, rows=7)
    torch.testing.assert_close(found, expected)
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, heads, towards)
    for one, other in zip(torch.autograd.grad(found, heads, towards), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_in_blocks_is_as_exact_as_attention_written_out():
    """In bfloat16, at a head of GPT-2's, against float64. Both round scores."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 2, 96, 64, generator=generator).bfloat16().double() for _ in range(3)]
    towards = torch.randn(1, 2, 96, 64, generator=generator).bfloat16().double()
    written = CausalAttention(emb_dim=128, heads=2, dropout=0.0, mask=StoredMask(96)).attend

    def all_of(attend, dtype) -> list:
        heads = [x.to(dtype).requires_grad_() for x in exact]
        found = attend(*heads)
        return [found, *torch.autograd.grad(found, heads, towards.to(dtype))]

    wanted = all_of(written, torch.float64)
    own = all_of(lambda *heads: blockwise_attention.attend(*heads, rows=32), torch.bfloat16)
    plain = all_of(written, torch.bfloat16)
    for one, other, right in zip(own, plain, wanted, strict=True):
        assert 0 < (one - right).norm() < 1.25 * (other - right).norm()


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_that_were_read_have_the_tables_gradient(compiled):
    """Tokens that occur twice, and in 16 bits: summed up in 32, so that none is rounded away."""
    ids = torch.tensor([[3, 0, 3], [9, 3, 0]])
    own, torchs = Embedding(10, 4, dtype=torch.bfloat16), torch.nn.Embedding(10, 4)
    with torch.no_grad():
        torchs.weight.copy_(own.weight)
    towards = torch.tensor([256.0, 0.5, 0.5, 1.0]).bfloat16().expand(6, 4).clone().view(2, 3, 4)
    towards[0, 2] = 1.0
    read = torch.compile(own, fullgraph=True) if compiled else own
    found = read(ids)
    assert torch.equal(found, own.weight[ids])
    found.backward(towards)
    torchs(ids).backward(towards.float())
    assert torch.equal(own.weight.grad, torchs.weight.grad.bfloat16())


def test_gelu_by_a_sigmoid_is_gelu():
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64, requires_grad=True)
    expected, found = F.gelu(x, approximate="tanh"), SigmoidGELU()(x)
    torch.testing.assert_close(found, expected)
    slopes = (torch.autograd.grad(y.sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("README.md", "amd-epyc-2-cores"),
        ("README.ja.md", "amd-epyc-2-cores"),
        ("ladders/README.md", "amd-epyc-avx2-2-cores"),
        ("ladders/README.ja.md", "amd-epyc-avx2-2-cores"),
        ("LOG.md", "*"),
    ],
)
def test_the_table_of_real_shapes_is_what_its_records_give(text, machine):
    """Where a shape was measured again, its row changes."""
    written, found = (PROJECT / text).read_text(), 0
    for name in bench_shapes.SHAPES:
        for path in (PROJECT / "results").glob(f"{machine}/beyond-{name}/records.jsonl"):
            assert bench_shapes.row(name, Records(path).read()) in written
            found += 1
    assert found >= 3

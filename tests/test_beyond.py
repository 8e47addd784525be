"""Beyond rung 10: each rung computes what the one below it does, and choices are measured."""

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from common import process, runner
from common.build import build
from common.device import describe
from common.display import Display
from common.equivalence import check
from common.measure import Settings, measure
from common.plan import Plan
from common.presets import PRESETS, baseline
from common.recipe import Numerics, Recipe
from common.records import Records
from common.runner import Climb
from ladders.beyond import LADDER, OWN
from ladders.beyond.step12_chunked_head import HeadLoss
from tests.conftest import SMALL

CPU = torch.device("cpu")
NUMBERS = range(11, LADDER.top + 1)
FOOT = Recipe(dropout=0.0, batch_size=2)
STUB = (sys.executable, "-S", str(Path(__file__).with_name("stub_child.py")))


def recipe_at(number: int, **changes) -> Recipe:
    return replace(LADDER.compose(FOOT, LADDER.chain(number)), **changes)


@pytest.mark.parametrize("number", NUMBERS)
def test_float32_tells_wrong_code_from_low_precision(number):
    """Loss and every gradient against the baseline in float64, uncompiled."""
    recipe = recipe_at(number, dtype=torch.float32, compile=False)
    found = check(recipe, FOOT, FOOT, Numerics.ROUNDING, CPU)
    assert found.worst_gradient_error < 2e-6
    assert found.loss_error < 1e-6


def test_compiled_and_in_bfloat16_the_top_is_still_the_same_model():
    found = check(recipe_at(LADDER.top), FOOT, FOOT, Numerics.ROUNDING, CPU)
    assert found.worst_gradient_error < found.limit == 0.1


@pytest.mark.parametrize("rows", [1, 5, 32, 100])
def test_the_chunked_head_is_cross_entropy(rows):
    """In float64, whatever the chunk: the last one may be smaller, or the only one."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(32, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (32,), generator=generator)
    expected = F.cross_entropy(hidden @ weight.T, targets)
    found = HeadLoss.apply(hidden, weight, targets, rows)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    wanted = torch.autograd.grad(2.5 * expected, (hidden, weight))
    given = torch.autograd.grad(2.5 * found, (hidden, weight))
    for a, b in zip(wanted, given, strict=True):
        torch.testing.assert_close(a, b)


def test_large_logits_do_not_overflow():
    hidden = torch.full((4, 2), 300.0, requires_grad=True)
    weight = torch.tensor([[300.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = HeadLoss.apply(hidden, weight, torch.tensor([0, 0, 1, 1]), 2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_exactly_the_declared_fields_change(number):
    rung = LADDER.rung(number)
    below = LADDER.compose(FOOT, LADDER.chain(LADDER.base(number)))
    above = rung.apply(below)
    changed = {f.name for f in fields(above) if getattr(below, f.name) != getattr(above, f.name)}
    assert changed == set(rung.CHANGES)
    assert Recipe.from_json(json.loads(json.dumps(above.to_json()))) == above


@pytest.mark.parametrize("number", NUMBERS)
def test_titles_and_expectations(number):
    rung = LADDER.rung(number)
    assert rung.__doc__.startswith(f"{number}. {LADDER.title(number)}.")
    assert f"step{number:02d}_" in rung.__name__
    assert "Expected: " in rung.__doc__  # said before it was measured


def test_the_ladder_goes_on_from_the_ten_steps():
    assert LADDER.numbers == (0, 9, *NUMBERS)
    assert LADDER.chain(11) == [*range(1, 10), 11]  # at the workload's own batch
    assert len(OWN) == len(NUMBERS)


def test_one_state_dict_fits_the_top():
    low, high = build(FOOT, SMALL, CPU), build(recipe_at(LADDER.top, vocab_multiple=1), SMALL, CPU)
    assert low.model.state_dict().keys() == high.model.state_dict().keys()


def test_held_out_text_is_evaluated_after_the_window():
    settings = Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2)
    assert measure(baseline("tiny"), settings).validation_loss is None
    found = measure(baseline("tiny"), replace(settings, validate=True))
    assert 8 < found.validation_loss < 13  # about log(50,257), barely trained


def climb(folder: Path, numbers: tuple[int, ...], resume: bool = False) -> list[dict]:
    """The beyond ladder with children that answer at once; 256 tokens are the fastest there."""
    plan = Plan(
        ladder=LADDER,
        baseline=baseline("tiny"),
        device=describe("cpu"),
        settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
        numbers=numbers,
        preset="tiny",
        timeout=30.0,
        search_s=1.0,
        windows=100,
    )
    with Display(len(numbers)) as display:
        display.console.quiet = True
        one = Climb(plan, Records(folder / "records.jsonl"), display)
        if resume:
            one.resume()
        one.run()
    return one.records.read()


def test_what_a_rung_leaves_open_is_measured_recorded_and_carried_up(tmp_path, monkeypatch):
    jobs = []

    def stub(job, timeout, report, watch):
        jobs.append(job)
        return process.run_job(job, timeout, report, watch, command=STUB)

    monkeypatch.setattr(runner, "run_job", stub)
    records = climb(tmp_path, (12,))
    tried = records[0]["candidates"]
    assert set(tried) == {"128 tokens", "256 tokens", "512 tokens", "1024 tokens"}
    assert max(tried, key=tried.get) == "256 tokens"
    assert records[0]["recipe"]["loss_rows"] == 256
    assert "512 tokens" in records[0]["note"]
    assert len(jobs) == 1 + 4 + 1  # ceilings, the candidates, the rung
    records = climb(tmp_path, (12, 13), resume=True)
    assert len(jobs) == 6 + 1  # what was chosen is not tried again
    above = records[-1]
    assert (above["rung"], above["recipe"]["loss_rows"]) == (13, 256)
    assert above["candidates"] == {}


def test_settings_reach_the_process_before_it_starts():
    job = {
        "kind": "rung",
        "ladder": LADDER.address,
        "applied": [13],
        "recipe": LADDER.rung(13).apply(baseline("tiny")).to_json(),
        "settings": asdict(Settings(shape=PRESETS["tiny"].shape, device="cpu")),
    }
    outcome = process.run_job(job, 60.0)
    assert outcome.status == "ok", outcome.log
    assert outcome.measurement["in_effect"] == {"13": "4 settings"}

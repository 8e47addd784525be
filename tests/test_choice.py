"""What is recommended was told: no loser, nothing undecided, nothing that only makes up a loss."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from common.cli import run
from common.cli.planning import ask_all
from common.engine.ladder import Ladder
from common.engine.metric import EXACT, LOWER, Metric
from common.engine.purpose import Purpose
from common.report.choice import Choice
from common.report.frame import to_frame
from ladders import LADDERS, load
from ladders.parallel import on_one_device
from steps import LADDER
from tests.conftest import fake_ladder, fake_record
from tests.packing import rung
from tests.test_page import of_steps
from tests.test_report import BYTES, Packing, read

HARM = Metric(name="harm", title="harm", of=read("harm"), better=LOWER, noise=EXACT, form=".3f")
NAMES = {"en": "Packing", "ja": "荷造り"}


def purpose(**more) -> Purpose:
    return Purpose(name=NAMES, about=NAMES, **more)


def packer(**more) -> Ladder:
    workload = Packing(address="", metrics=(BYTES, HARM))
    return Ladder(name="packing", workload=workload, modules=(), purpose=purpose(**more))


def box(rung: int, size: int, harm: float, base: int = 0) -> dict:
    """A record of a rung on a branch of its own, or over another one."""
    applied = [base, rung] if base else [rung] if rung else []
    more = {"ladder": "packing", "base": base, "applied": applied}
    told = {"bytes": size, "harm": harm, "in_effect": {}}
    return fake_record(rung, 1, 1.0, **more) | {"measurement": told}


def steady(rates: dict[int, float], **more) -> list[dict]:
    """Three rounds that hardly differ, but not alike at all rungs: else ratios had no noise."""
    order = (1.001, 1.0, 0.999)
    each = {n: [rate * order[(n + turn) % 3] for turn in range(3)] for n, rate in rates.items()}
    return of_steps(each, **more)


def on(choice: Choice) -> list[int]:
    return [one.row["rung"] for one in choice.on]


def kinds(choice: Choice) -> dict[str, list[int]]:
    return {kind: [r["rung"] for r in rows] for kind, rows in choice.rest.items() if rows}


def test_what_was_told_is_recommended_with_its_own_gain():
    records = steady({0: 100, 1: 100, 2: 150, 3: 300, 4: 299.9})
    choice, frame = Choice(records, LADDER), to_frame(records, LADDER.workload).set_index("rung")
    assert on(choice) == [2, 3]
    assert kinds(choice) == {"untold": [1, 4]}
    for one in choice.on:
        ends = frame.loc[one.row["rung"], ["x_prev", "x_prev_low", "x_prev_high"]]
        assert [one.gain.times, one.gain.low, one.gain.high] == pytest.approx([*ends])
    assert [one.over["rung"] for one in choice.on] == [1, 2]
    assert choice.total.times == pytest.approx(3.0)
    assert choice.total.low < 3.0 < choice.total.high


def test_what_only_makes_up_for_a_loss_is_not_recommended():
    choice = Choice(steady({0: 100, 1: 200, 2: 100, 3: 190}), LADDER)
    assert on(choice) == [1]
    assert kinds(choice) == {"lost": [2], "regained": [3]}
    regained = Choice(steady({0: 100, 1: 200, 2: 100, 3: 200.1}), LADDER)
    assert on(regained) == [1]
    assert kinds(regained) == {"lost": [2], "regained": [3]}
    more = Choice(steady({0: 100, 1: 200, 2: 100, 3: 300}), LADDER)
    assert on(more) == [1, 3]
    assert more.on[1].over["rung"] == 1
    assert more.on[1].gain.times == pytest.approx(1.5)  # not the 3 over the loser


@pytest.mark.parametrize(
    "records",
    [
        fake_ladder({0: [100], 1: [250]}),  # measured once
        fake_ladder({0: [100, 102, 98], 1: [101, 98, 102]}),
        steady({0: 100, 1: 50}),
        steady({0: 100}),
    ],
)
def test_where_nothing_was_told_nothing_is_recommended(records):
    choice = Choice(records, LADDER)
    assert choice.on == choice.others == []
    assert choice.best is None and choice.total is None


def test_a_twin_that_differs_takes_all_recommendations_back():
    records = steady({0: 100, 1: 200})
    assert on(Choice(records, LADDER)) == [1]
    twin = [r | {"series": "twin"} for r in steady({1: 300})]
    assert on(Choice(records + twin, LADDER)) == []


def test_what_was_not_measured_is_named():
    choice = Choice(steady({0: 100, 1: 200}), LADDER)
    assert choice.absent == [LADDER.title(n) for n in range(2, LADDER.top + 1)]
    bad = fake_record(2, 1, 1.0, status="failed", reason="no")
    skipped = fake_record(3, 1, 1.0, status="skipped", reason="not here")
    told = Choice([*steady({0: 100, 1: 200}), bad, skipped], LADDER)
    assert kinds(told) == {"failed": [2], "skipped": [3]}


def test_the_best_branch_is_taken_and_the_others_are_named():
    records = [box(0, 1000, 0.0), box(1, 500, 0.0), box(2, 250, 0.0, 1), box(3, 300, 0.0, 1)]
    choice = Choice(records, packer())
    assert on(choice) == [1, 2]
    assert math.isnan(choice.on[0].gain.low)  # counted
    assert kinds(choice) == {"elsewhere": [3]}


def test_what_costs_too_much_is_barred_and_among_equals_the_second_metric_decides():
    records = [box(0, 1000, 0.0), box(1, 500, 0.001), box(2, 250, 0.04, 1), box(3, 250, 0.002, 2)]
    records[3]["applied"] = [1, 2, 3]
    records += [box(4, 100, 0.5), box(5, 400, -0.001)]
    choice = Choice(
        records, packer(second="harm", barred=lambda row: NAMES if row["harm"] > 0.1 else {})
    )
    assert choice.best["rung"] == 3
    assert on(choice) == [1, 2, 3]
    assert choice.on[2].gain is None  # the size stays, the harm is less
    assert kinds(choice) == {"barred": [4]}
    assert [row["rung"] for row in choice.others] == [5]
    records[4]["measurement"]["bytes"] = 1100
    assert kinds(Choice(records, choice.ladder)) == {"lost": [4]}  # no gain that costs too much
    records[4]["measurement"]["bytes"] = 100
    free = Choice(records, packer(second="harm"))
    assert on(free) == [4]
    assert [row["rung"] for row in free.others] == [3, 5]


def test_what_a_rung_above_undoes_is_not_recommended_and_what_it_changes_again_is_said():
    """As accumulation is by an update in the backward pass, and a growing cache by a fixed one."""
    modules = (
        rung(1, "Flat", lose=1),
        rung(2, "Deep", level=1),
        rung(3, "Deeper", level=2, lose=0),
    )
    ladder = replace(packer(), modules=modules)
    plain, records = {"level": 0, "lose": 0}, [box(0, 1000, 0.0)]
    records[0]["recipe"] = plain
    for number, changes in enumerate(({"lose": 1}, {"level": 1}, {"level": 2, "lose": 0}), start=1):
        plain = plain | changes
        one = box(number, 1000 // 2**number, 0.0)
        told = one["measurement"] | {"in_effect": {str(number): "seen"}}
        one |= {"base": number - 1, "applied": [*range(1, number + 1)], "recipe": plain}
        records.append(one | {"name": ladder.title(number), "measurement": told})
    choice = Choice(records, ladder)
    assert on(choice) == [2, 3]
    assert kinds(choice) == {"undone": [1]}
    assert choice.changed_again(choice.on[0]) == ["Deeper"]
    assert choice.changed_again(choice.on[1]) == []


def test_requests_side_by_side_are_named_beside_what_one_gains():
    ladder = load("inference")
    titles = [rung.title for rung in ladder.rungs if ladder.purpose.barred({"name": rung.title})]
    assert titles == ["Batching", "Static batches", "Continuous batching"]


NEEDS_A_FILE = {"environment", "own"}  # or a command, of the user's: no part of --ladder all


@pytest.mark.parametrize("name", sorted(LADDERS.keys() - NEEDS_A_FILE))
def test_every_ladder_says_what_it_is_for_in_both_languages(name):
    ladder = load(name)
    for texts in (ladder.purpose.name, ladder.purpose.about):
        assert texts.keys() == {"en", "ja"}
        assert all(texts.values())
    names = [metric.name for metric in ladder.workload.metrics]
    assert ladder.purpose.second in ("", *names)


def test_a_file_that_may_lose_too_much_is_barred():
    barred = load("compress").purpose.barred
    rows = pd.DataFrame({"delta_high": [0.009, 0.011, math.nan], "name": "int8"}).to_dict("records")
    assert [bool(barred(row)) for row in rows] == [False, True, True]
    assert "0.01 nats" in barred(rows[1])["en"] and "0.01 nat" in barred(rows[1])["ja"]


def test_a_loss_that_longer_training_brought_is_no_reason_to_take_a_file():
    """However little it is: quantisation-aware training, and a lottery ticket."""
    ladder = load("compress")
    rows = [{"name": rung.title, "delta_high": -0.05} for rung in ladder.rungs]
    longer = [row["name"] for row in rows if ladder.purpose.barred(row)]
    assert longer == ["Quantisation-aware (QAT)", "Lottery ticket"]
    against = ladder.purpose.barred({"name": longer[1], "delta_high": -0.05})
    assert "trained longer" in against["en"] and "長く学習" in against["ja"]


def test_several_processes_are_for_several_devices():
    class Device:
        type, count = "cpu", 2

    assert "share its cores" in on_one_device(Device)
    Device.type = "cuda"
    assert on_one_device(Device) == ""
    Device.count = 1
    assert on_one_device(Device) == "there is one device"


def test_all_ladders_refuse_what_one_does_not_know(refusal):
    assert "inference refuses it" in refusal(run.main, ["--ladder", "all", "--nproc", "2"])
    asked = ask_all(["--preset", "tiny", "--rounds", "2", "--device", "cpu"])
    assert [*asked] == [name for name in LADDERS if name not in NEEDS_A_FILE]
    assert {options.preset for _, options in asked.values()} == {"tiny"}


def test_the_ladders_are_listed(capsys):
    assert run.main(["--ladder", "all", "--list"]) == 0
    said = capsys.readouterr().out
    assert "\nsteps: Training\n 0  baseline" in said
    assert "\nmemory: Memory\n" in said

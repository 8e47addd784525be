"""How a run ends: in sentences that are so, with a command that can be typed; and the time left."""

import math
from dataclasses import replace

import pytest

from common.cli.time_left import TimeLeft
from common.engine.plan import Turns
from common.engine.records import Records
from common.report.ending import COMMAND, again, ending, headline
from common.report.frame import to_frame
from common.report.page_facts import sentence
from common.workloads.train.workload import TRAINING
from tests.conftest import PROJECT, fake_ladder
from tests.packing import LADDER as PACKING
from tests.test_resume import PLAN

RUN = "python -m steps.run"
PLAIN = replace(PLAN, rounds=3)


UNTOLD = fake_ladder({0: [100, 102, 98], 1: [101, 98, 102]})


def of(rates: dict[int, list[float]], **changes) -> list[dict]:
    return fake_ladder({n: [r, 1.001 * r, 0.999 * r] for n, r in rates.items()}, **changes)


def test_the_headline_says_how_much_and_who_made_it():
    said = headline(of({0: 100, 1: 200, 2: 200, 3: 300}), TRAINING)
    assert said == "3.0 times the baseline's tok/s: rung 1 x2.00 and rung 3 x1.50 made it"


def test_many_makers_are_not_all_named():
    said = headline(of({n: 100 * 1.3**n for n in range(7)}), TRAINING)
    assert said.startswith("4.8 times the baseline's tok/s: rung ")
    assert said.endswith(" made most of it")
    assert said.count("x1.30") == 3


def test_no_gain_is_said_to_be_none():
    assert headline(UNTOLD, TRAINING).startswith("No gain in tok/s over the base")
    assert headline(of({0: 100}), TRAINING) == "No rung over the baseline was measured"


def test_a_ladder_on_another_is_over_its_own_foot_where_nothing_below_was_measured():
    records = of({0: 100, 2: 150}, under=["steps 1", "steps 3"])
    assert headline(records, TRAINING) == "1.50 times rung 0's tok/s"
    (foot, top) = to_frame(records, TRAINING).to_dict("records")
    assert foot["x_base"] is None or math.isnan(foot["x_base"])
    assert top["x_base"] == pytest.approx(1.5)
    assert "rung 0の 1.50 倍" in sentence(to_frame(records, TRAINING), TRAINING)
    below = of({-1: 50}, applied=[])
    assert headline(below + records, TRAINING).startswith("3.0 times the baseline's")


def test_a_branch_is_made_by_what_it_stands_on():
    records = of({0: 100, 1: 200})
    records += of({2: 300}, applied=[1, 2], base=1) + of({3: 500}, applied=[1, 3], base=1)
    said = headline(records, TRAINING)
    assert said == "5.0 times the baseline's tok/s: rung 3 x2.50 and rung 1 x2.00 made it"


def test_one_round_is_not_judged_and_says_so():
    records = fake_ladder({0: [100], 1: [250]})
    assert headline(records, TRAINING) == "2.5 times the baseline's tok/s, not judged"
    lines = ending(records, replace(PLAIN, rounds=1), RUN)
    assert lines[1:] == [
        "One round cannot tell gains from noise. To judge them:",
        f"{COMMAND}{RUN} --rounds 3",
    ]


def test_less_is_better_where_it_is():
    records = of({0: 100, 1: 100})
    for record in records:
        record["measurement"]["file_bytes"] = 1000 if record["rung"] else 4000
    said = headline(records, PACKING.workload)
    assert said == "The baseline's file, bytes, divided by 4.0: rung 1 x4.00 made it"


def test_the_end_names_what_was_lost_and_what_is_open_and_what_did_not_apply():
    records = UNTOLD + of({3: 60}, applied=[1, 3])
    records += of({2: 1}, status="skipped", reason="no tensor cores")[:1]
    records += of({4: 1}, status="failed", reason="killed")[:1]
    lines = ending(records, PLAIN, f"{RUN} --rounds 3")
    assert any(line.startswith("Here slower: rung 3 x0.60") for line in lines)
    assert any(line.startswith("Not told: rung 1 <") for line in lines)
    assert f"{COMMAND}{RUN} --rounds 4" in lines
    assert "Does not apply here: rung 2." in lines
    assert "Failed: rung 4; the table says why." in lines


@pytest.mark.parametrize(
    ("turns", "more"),
    [
        (Turns(resolution=0.0001, budget_s=480.0), "--budget 16m"),
        (Turns(resolution=0.0001, budget_s=480.0, steps=5), "--steps 20"),
    ],
)
def test_more_is_told_by_the_option_that_ends_such_a_run(turns, more):
    lines = ending(UNTOLD, replace(PLAIN, turns=turns), RUN)
    assert f"{COMMAND}{RUN} {more}" in lines


def test_what_is_known_closely_enough_is_not_called_open():
    turns = Turns(resolution=0.2, budget_s=480.0)
    lines = ending(UNTOLD, replace(PLAIN, turns=turns), RUN)
    assert not any("Not told" in line for line in lines)


@pytest.mark.parametrize(
    ("typed", "options", "expected"),
    [
        (f"{RUN} --budget 8m --out 'a b'", ("--budget", "16m"), f"{RUN} --out 'a b' --budget 16m"),
        (f"{RUN} --budget=8m", ("--budget", "16m"), f"{RUN} --budget 16m"),
        (f"{RUN} --resume --upto 3", ("--resume",), f"{RUN} --upto 3 --resume"),
        (f"{RUN} --resume", (), RUN),
    ],
)
def test_a_command_is_typed_again_with_another_option(typed, options, expected):
    assert again(typed, *options) == expected


def shares(folder: str) -> list[float]:
    """The time left that was said after each measurement of a recorded run, over what it took."""
    records = Records(PROJECT / folder / "records.jsonl").read()
    rungs = [r["rung"] for r in records if r["round"] == 1]
    turns = range(1, 1 + max(r["round"] for r in records))
    left = TimeLeft([(t, rung) for t in turns for rung in (rungs if t % 2 else rungs[::-1])])
    found = []
    for place, record in enumerate(records):
        left.end(record["rung"], record["wall_s"] if record["status"] == "ok" else None)
        if ahead := sum(r["wall_s"] for r in records[place + 1 :]):
            found.append(left.seconds() / ahead)
    return found


@pytest.mark.parametrize("folder", ["results/nvidia-h200", "results/amd-epyc-2-cores/parallel"])
def test_the_time_left_is_near_the_truth_from_the_second_rung_on(folder):
    said = shares(folder)[1:]
    near = [share for share in said if 0.75 <= share <= 1.25]
    assert len(near) >= 0.85 * len(said), said


def test_the_time_left_moves_while_a_rung_is_at_work():
    left = TimeLeft([(turn, rung) for turn in (1, 2) for rung in range(3)])
    assert left.seconds() is None
    left.end(0, 10.0)
    assert left.seconds() == pytest.approx(2 * 10 + 3 * 7)
    assert left.seconds(4.0) == pytest.approx(2 * 10 + 3 * 7 - 4)
    assert left.seconds(400.0) == pytest.approx(10 + 3 * 7)  # what is late takes longer, not less
    left.end(1, None)  # failed: it has no part in the second round
    assert left.seconds() == pytest.approx(10 + 2 * 7)
    left.end(2, 10.0)
    left.end(1, None)  # and the climb says so there once more
    assert left.seconds() == pytest.approx(2 * 7)

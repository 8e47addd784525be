"""Processes that take turns: who, in which order, for how long, and what an end costs."""

import contextlib
import json
import signal
import time
from collections import Counter

import pandas as pd
import psutil
import pytest

from common.engine.job import Job
from common.engine.looks import GENERATIONS
from common.engine.options import duration, share
from common.engine.process import Child
from common.engine.records import Records
from common.engine.turns import LEAST
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.parallel.workload import PARALLEL
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING
from tests import conftest
from tests.conftest import width
from tests.test_engine import climbed, start


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "gib").write_text("100")
    monkeypatch.setenv("PACING", str(tmp_path))
    return tmp_path


def records(folder) -> list[dict]:
    return Records(folder / "out" / "records.jsonl").read()


def climb(folder, *options: str) -> tuple[int, str]:
    return climbed("pacing", "--out", str(folder / "out"), *options)


def test_rungs_take_turns_in_another_order_each_time(folder):
    status, said = climb(folder, "--only", "0,1,2", "--budget", "9s", "--json")
    assert status == 0, said
    found = records(folder)
    assert all(r["measurement"]["turns"] == sorted(r["measurement"]["turns"]) for r in found)
    of_first = [r for r in found if r["round"] == 1]
    assert [r["series"] for r in of_first].count("twin") == 1
    assert {len(set(r["measurement"]["turns"])) for r in of_first} == {
        1 + of_first[0]["measurement"]["turns"][-1]
    }
    table = pd.read_csv(folder / "out" / "ladder.csv").set_index("rung")
    assert table.loc[1, "verdict"] == "faster"
    assert table.loc[2, "verdict"].startswith("less than")
    assert table.loc[2, "smallest_gain"] < 0.05
    told = json.loads(said.splitlines()[-1])["control"]
    assert told["ratio"] == pytest.approx(1, abs=0.05)
    assert "control: rung" in said
    steps = (folder / "steps").read_text().split("\n")[2 * 4 :]  # behind the warm-up
    orders = Counter(tuple(steps[n : n + 4]) for n in (0, 4, 8, 12))
    assert len(orders) > 1


def test_what_is_timed_after_the_steps_is_timed_one_by_one(folder):
    status, said = climbed(
        "lingering", "--out", str(folder / "out"), "--only", "0,1,2", "--budget", "2s"
    )
    assert status == 0, said
    lines = [line.split() for line in (folder / "after").read_text().splitlines()]
    assert len(lines) >= 2 * 4  # three rungs and a twin
    for (begun, first), (ended, second) in zip(lines[::2], lines[1::2], strict=True):
        assert (begun, first, second) == (ended, "begins", "ends")


def test_where_not_all_fit_groups_share_a_rung(folder):
    (folder / "gib").write_text("4.5")
    status, said = climb(folder, "--only", "0,1,2,3", "--steps", "6")
    assert status == 0, said
    found = [r for r in records(folder) if r["round"] == 1]
    groups = {}
    for record in found:
        groups.setdefault(record["group"], []).append((record["series"], record["rung"]))
    assert len(groups) > 1
    for before, after in zip(sorted(groups), sorted(groups)[1:], strict=False):
        assert set(groups[before]) & set(groups[after])
    table = pd.read_csv(folder / "out" / "ladder.csv")
    assert table["x_prev"].notna().tolist() == [False, True, True, True]
    assert table["x_base"][3] == pytest.approx(2, rel=0.1)


def test_what_has_no_room_beside_others_is_tried_with_fewer(folder):
    status, said = climb(folder, "--only", "0,1,2,3", "--steps", "3")
    assert status == 0, said
    large = next(r for r in records(folder) if r["rung"] == 3)
    assert large["status"] == "ok"
    assert large["group"] == 2


@pytest.mark.parametrize("numbers", ["0,1,2", "0,1,2,3"])  # the last has no room beside others
def test_on_an_accelerator_processes_start_beside_one_another(folder, numbers):
    (folder / "accelerator").touch()
    status, said = climb(folder, "--only", numbers, "--steps", "3", "--resolution", "1%")
    assert status == 0, said
    found = [r for r in records(folder) if r["round"] == 1]
    assert {r["status"] for r in found} == {"ok"}
    wanted = [int(number) for number in numbers.split(",")]
    assert sorted({r["rung"] for r in found if r["series"] == "ladder"}) == wanted
    starts = (folder / "starts").read_text().split()
    assert starts[:4] == ["begins", "ends", "begins", "begins"]  # the first tells of the memory
    assert not any(map(psutil.pid_exists, (int(f.name[6:]) for f in folder.glob("alive-*"))))


def test_a_process_that_dies_in_its_turn_costs_its_row(folder):
    status, said = climb(folder, "--only", "0,1,4", "--steps", "8")
    assert status == 1, said
    by_rung = {r["rung"]: r for r in records(folder) if r["series"] == "ladder"}
    assert by_rung[4]["status"] == "failed"
    assert "exit status 3" in by_rung[4]["reason"]
    assert {by_rung[n]["status"] for n in (0, 1)} == {"ok"}


def test_steps_are_as_many_as_asked_for(folder):
    climb(folder, "--only", "0,2", "--steps", "7")
    found = records(folder)
    assert {len(r["measurement"]["step_s"]) for r in found} == {7}
    assert max(r["round"] for r in found) == GENERATIONS


def test_a_budget_is_kept_and_used(folder):
    begin = time.perf_counter()
    climb(folder, "--only", "0,2", "--budget", "8s", "--resolution", "0.01%")
    assert time.perf_counter() - begin < 8 + 6  # the tables, and a last turn
    assert max(r["spent_s"] for r in records(folder)) > 4  # half: a last look may end it early


def test_a_third_generation_that_the_budget_has_no_time_for_does_not_begin(folder):
    (folder / "accelerator").touch()  # where a start takes longer than turns do
    status, said = climb(folder, "--only", "0,1", "--budget", "2s", "--resolution", "0.01%")
    assert status == 0, said
    assert max(r["round"] for r in records(folder)) == 2
    assert pd.read_csv(folder / "out" / "ladder.csv")["verdict"][1] == "faster"


def until(said: str, process) -> None:
    for line in process.stdout:
        if said in line:
            return
    raise AssertionError(f"it never said {said!r}")


def test_an_interrupt_keeps_what_the_turns_have_told_and_resume_goes_on(folder):
    options = ("--only", "0,1,2", "--budget", "40s", "--resolution", "0.01%")
    process = start("pacing", "--out", str(folder / "out"), *options)
    until("taking turns", process)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130, (said, errors)
    kept = records(folder)
    assert {r["rung"] for r in kept} == {0, 1, 2}
    assert all(len(set(r["measurement"]["turns"])) >= LEAST for r in kept)
    assert all(len(r["measurement"]["turns"]) == len(r["measurement"]["step_s"]) for r in kept)
    assert "Interrupted: 4 measurements are kept. To go on:\n  python -m steps.run " in said
    assert said.splitlines()[-2].endswith(" --resume")
    status, said = climb(folder, *options, "--budget", "14s", "--resume")
    assert status == 0, said
    assert "resuming: 4 measurements are kept" in said
    after = records(folder)
    assert after[: len(kept)] == kept
    assert min(r["round"] for r in after[len(kept) :]) == 2
    assert all(r["spent_s"] >= kept[-1]["spent_s"] for r in after[len(kept) :])


def test_a_kill_loses_no_more_than_the_generation_at_work(folder):
    options = ("--only", "0,1,2", "--steps", "6")
    for _ in range(2):
        process = start("pacing", "--resume", "--out", str(folder / "out"), *options)
        with contextlib.suppress(AssertionError):
            until("generation 2", process)
        time.sleep(0.3)
        process.kill()
        process.communicate()
    status, said = climb(folder, *options, "--resume")
    assert status == 0, said
    found = records(folder)
    whole = Counter((r["round"], r["series"], r["rung"]) for r in found)
    assert set(whole.values()) == {1}
    assert {r["round"] for r in found} >= {1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", "2", "--budget", "1m"), "--rounds: without --resolution and --budget"),
        (("--resolution", "300%"), "--resolution: 300%: must be a share above 0 and below 100%"),
        (("--budget", "soon"), "--budget: soon: must be a time above 0, as 90s, 8m, or 1h"),
        (("--ladder", "packing", "--budget", "1m"), "--budget: not for --ladder packing"),
    ],
)
def test_a_mistake_is_a_sentence(options, message, refusal, monkeypatch, tmp_path):
    from common.cli.run import main
    from ladders import LADDERS

    monkeypatch.setitem(LADDERS, "packing", "tests.packing")
    assert message in refusal(main, [*options, "--out", str(tmp_path)])


def test_times_and_shares():
    assert [duration(t) for t in ("90s", "8m", "1h", "30")] == [90, 480, 3600, 30]
    assert [share(t) for t in ("3%", "3 %", "0.03")] == pytest.approx([0.03] * 3)


def job(workload, recipe) -> Job:
    settings = Settings(shape=PRESETS["tiny"].shape, device="cpu")
    return Job(workload=workload, recipe=recipe, settings=settings, turns=True)


def test_asleep_a_process_uses_no_processor():
    with Child(job(TRAINING, baseline("tiny")), timeout=120) as child:
        assert child.hear("ready")
        assert len(child.ask(3)) == 3
        time.sleep(0.3)
        process = psutil.Process(child.process.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(2)
        assert sum(process.cpu_times()[:2]) - before <= 0.02
        assert len(child.ask(1)) == 1
        child.dismiss()
        assert len(child.finish().measurement["step_s"]) == 4


def test_processes_that_train_together_take_their_turns_together():
    recipe = ParallelRecipe(batch_size=2, dropout=0.0, data=2, devices=2)
    with Child(job(PARALLEL, recipe), timeout=120) as child:
        ready = child.hear("ready")
        assert ready, child.outcome().log
        assert len(child.ask(2)) == 2
        time.sleep(1)
        assert len(child.ask(1)) == 1
        child.dismiss()
        outcome = child.finish()
    assert outcome.status == "ok", outcome.log
    assert len(outcome.measurement["step_s"]) == 3


def test_training_steps_are_taken_in_turns(tmp_path):
    options = ("--preset", "tiny", "--device", "cpu", "--only", "0,1,2", "--steps", "6")
    done = conftest.climb(*options, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert width(done.stdout) <= 80
    found = Records(tmp_path / "records.jsonl").read()
    steps = [r["measurement"] for r in found if r["status"] == "ok"]
    assert len(steps) == GENERATIONS * 3  # two rungs and a twin; the third does not apply
    assert {len(one["step_s"]) for one in steps} == {6}
    assert [one["turns"] for one in steps] == [[*range(6)]] * len(steps)
    assert len({tuple(one["losses"]) for one in steps}) == 1  # the same tokens, exact rungs
    assert "3 generations of processes in turns, 6 to 6" in (tmp_path / "ladder.md").read_text()

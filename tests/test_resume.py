"""A kill at any moment loses at most the rung that was running."""

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.accelerator.device import describe
from common.cli.display import Display
from common.cli.run import main
from common.engine import children, process
from common.engine.climb import Climb
from common.engine.device import DeviceFacts, threads_allowed
from common.engine.errors import UserError
from common.engine.plan import Plan
from common.engine.records import Records, sole_writer
from common.engine.workload import Launch
from common.report.attribution import to_attribution
from common.report.files import write_results
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.settings import Settings
from steps import LADDER
from tests.conftest import STEPS_RUN, run
from tests.test_runner import SEARCHES, start_ladder, wait_for_records

STUB = Launch(command=(sys.executable, "-S", str(Path(__file__).with_name("stub_child.py"))))
PLAN = Plan(
    ladder=LADDER,
    baseline=baseline("tiny"),
    device=replace(describe("cpu"), native_bf16=True),  # the same rungs on every CPU
    settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
    numbers=tuple(range(SEARCHES)),
    rounds=2,
    preset="tiny",
    timeout=30.0,
)
WHOLE = {
    (turn, n): "skipped" if n in (2, 4) else "ok"
    for turn in (1, 2)
    for n in range(SEARCHES)
    if turn == 1 or n not in (2, 4)
}


def at_once(job, timeout, *more) -> process.Outcome:
    """A child that answers at once."""
    return process.run_job(job, timeout, *more, launch=STUB)


def climb(folder: Path, resume: bool) -> None:
    """One run of the ladder with children that answer at once."""
    children.run_job = at_once
    with sole_writer(folder), Display(PLAN) as display:
        display.console.quiet = True
        one = Climb(PLAN, Records(folder / "records.jsonl"), display)
        if resume:
            one.resume()
        one.run()


def start(folder: Path, resume: bool) -> multiprocessing.Process:
    """Forked, so that twenty starts do not import torch twenty times."""
    forked = multiprocessing.get_context("fork").Process(target=climb, args=(folder, resume))
    forked.start()
    return forked


def lines(folder: Path) -> list[bytes]:
    path = folder / "records.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_twenty_kills_at_random_moments_each_resume_to_a_whole_ladder(tmp_path):
    begin = time.monotonic()
    (tmp_path / "timing").mkdir()
    start(tmp_path / "timing", resume=False).join()
    whole_s = time.monotonic() - begin
    moments = random.Random(0)
    kept = 0
    for trial in range(20):
        folder = tmp_path / str(trial)
        folder.mkdir()
        victim = start(folder, resume=False)
        time.sleep(moments.uniform(0.0, whole_s))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        before = [line for line in lines(folder) if line.endswith(b"}")]
        survivor = start(folder, resume=bool(lines(folder)))
        survivor.join(60)
        assert survivor.exitcode == 0
        after = Records(folder / "records.jsonl").read()
        assert {(r["round"], r["rung"]): r["status"] for r in after} == WHOLE
        assert len(after) == len(WHOLE)  # nothing was measured twice
        assert [line for line in lines(folder) if line.endswith(b"}")][: len(before)] == before
        kept += len(before)
    assert kept > 20  # the kills did fall inside runs


def test_the_command_resumes_a_killed_ladder(tmp_path, monkeypatch, capsys):
    ladder = start_ladder(tmp_path, "--only", "0", "--rounds", "2")
    wait_for_records(tmp_path, 1)
    ladder.kill()
    ladder.communicate()
    (first,) = Records(tmp_path / "records.jsonl").read()
    command = ("--preset", "tiny", "--device", "cpu", "--only", "0", "--out", str(tmp_path))
    done = run(*STEPS_RUN, *command, "--rounds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 measurements are kept" in done.stdout
    records = Records(tmp_path / "records.jsonl").read()
    assert len(records) == 2
    assert records[0] == first
    # as those processes have it; this one may have been started with more processors
    monkeypatch.setattr(torch, "get_num_threads", threads_allowed)
    assert main([*command, "--rounds", "2", "--resume"]) == 0
    assert "2 of 2 measurements are kept" in capsys.readouterr().out
    # another setting: nothing fits
    monkeypatch.setattr(children, "run_job", at_once)
    assert main([*command, "--rounds", "1", "--resume", "--steps", "3"]) == 0
    assert "0 of 1 measurements are kept" in capsys.readouterr().out


def test_a_first_run_may_be_told_to_resume(tmp_path, monkeypatch, capsys):
    """A job that a scheduler starts again has one command for both."""
    monkeypatch.setattr(children, "run_job", at_once)
    command = ["--preset", "tiny", "--device", "cpu", "--only", "0", "--rounds", "1", "--resume"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert f"nothing to resume in {tmp_path}: starting afresh" in capsys.readouterr().out
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "1 of 1 measurements are kept" in capsys.readouterr().out


def test_two_runs_do_not_share_a_folder(tmp_path):
    with sole_writer(tmp_path):
        done = run("-m", "steps.run", "--preset", "tiny", "--only", "0", "--out", str(tmp_path))
        assert done.returncode == 2
        assert f"process {os.getpid()} is writing there" in done.stderr
    assert not (tmp_path / "records.jsonl").exists()
    with sole_writer(tmp_path):
        pass  # it was let go


def test_the_lock_names_its_holder(tmp_path):
    writer = sole_writer(tmp_path)
    with sole_writer(tmp_path), pytest.raises(UserError, match="is writing there"):
        writer.__enter__()


GPU = DeviceFacts(type="cuda", name="Card", vendor="nvidia", memory_gib=80, native_bf16=False,
                  capability=(7, 5))  # fmt: skip
HOT = {"throttled": True, "clock_event_reasons": ["hw_thermal_slowdown"]}


@pytest.mark.parametrize(
    ("device", "window", "own", "reason"),
    [
        (GPU, HOT, 0.1, "the GPU throttled"),
        (PLAN.device, {"cpu_busy": 0.9}, 0.5, "other processes used 40% of the CPU"),
    ],
)
def test_a_disturbed_window_is_measured_once_more(
    tmp_path, monkeypatch, device, window, own, reason
):
    calls = []

    def disturbed_once(job, timeout, tell, watch):
        calls.append(job)
        outcome = process.run_job(job, timeout, tell, watch, launch=STUB)
        if len(calls) == 2:  # the first is the ceilings'
            outcome.window |= window
            outcome.measurement["cpu_share"] = own
        return outcome

    monkeypatch.setattr(children, "run_job", disturbed_once)
    plan = replace(PLAN, device=device, numbers=(0,), rounds=1)
    with Display(plan) as display:
        Climb(plan, Records(tmp_path / "records.jsonl"), display).run()
    (record,) = Records(tmp_path / "records.jsonl").read()
    assert len(calls) == 3
    assert record["status"] == "ok"
    assert reason in record["discarded"][0]["reason"]
    assert record["discarded"][0]["measurement"]["step_s"] == [0.1, 0.1]


def test_attribution_measures_each_rung_alone_and_left_out(tmp_path, monkeypatch):
    """All the way from the runner to table and plot, with children that answer at once."""

    monkeypatch.setattr(children, "run_job", at_once)
    top = LADDER.top
    alone, without = tuple(range(2, top + 1)), tuple(range(1, top))
    plan = replace(PLAN, numbers=tuple(range(top + 1)), alone=alone, without=without)
    with Display(plan) as display:
        Climb(plan, Records(tmp_path / "records.jsonl"), display).run()
    records = Records(tmp_path / "records.jsonl").read()
    applied = {(r["series"], r["rung"]): r["applied"] for r in records if r["status"] == "ok"}
    assert applied["alone", 7] == [7]
    assert applied["without", 5] == [n for n in range(1, top + 1) if n not in (2, 4, 5, 11)]
    full = [r for r in records if r["series"] == "without" or r["rung"] == top]
    found = [r["recipe"] for r in full if SEARCHES in r["applied"]]
    batches = {recipe["batch_size"] for recipe in found if recipe}
    assert len(batches) == 1  # left out: the batch of the full stack, so that one thing differs
    paths = write_results(records, tmp_path, LADDER)
    assert paths.keys() >= {"csv", "md", "png", "losses", "attribution", "attribution_csv"}
    assert all(Path(path).stat().st_size for path in paths.values())
    frame = to_attribution(records, LADDER.workload).set_index("rung")
    assert frame.loc[7, ["in_order", "alone", "left_out"]].tolist() == pytest.approx([1.0] * 3)
    assert frame.loc[2, "alone_reason"].startswith("does not apply: TF32")
    assert frame.loc[2, "left_out_reason"].startswith("does not apply: TF32")

"""A rung that dies, hangs, or breaks costs its own row; no process is left behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from common.accelerator.device import describe
from common.cli.display import Display
from common.engine import children, process
from common.engine.climb import Climb
from common.engine.errors import UserError
from common.engine.job import Job
from common.engine.plan import Plan
from common.engine.records import Records
from common.report.files import write_results
from common.report.frame import to_frame
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING
from steps import LADDER
from tests import faulty
from tests.conftest import (
    PROJECT,
    SHORT_RUN,
    at_work,
    climb,
    fake_record,
    last_json,
    not_on_this_cpu,
    short_climb,
    width,
)

ABSENT, BFLOAT16 = not_on_this_cpu(LADDER, baseline("tiny")), 5
# the step whose batch is found by search
SEARCHES = 1 + next(n for n, rung in enumerate(LADDER.rungs) if "batch_size" in rung.changes)
HANGS = 3  # the faulty rung that sleeps for ten minutes


@pytest.fixture(scope="module")
def faulty_climb(tmp_path_factory):
    """The records of the faulty ladder, and where they are."""

    def run_job(job: Job, timeout: float, *more) -> process.Outcome:
        """Waits for the hanging rung, which hangs on any machine, no longer than it must."""
        return process.run_job(job, 8.0 if HANGS in job.applied else timeout, *more)

    store = Records(tmp_path_factory.mktemp("faulty") / "records.jsonl")
    plan = Plan(
        ladder=faulty.LADDER,
        baseline=baseline("tiny"),
        device=describe("cpu"),
        settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
        numbers=tuple(range(faulty.LADDER.top + 1)),
        preset="tiny",
        timeout=60.0,
    )
    with Display(plan) as display, short_climb(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "run_job", run_job)
        Climb(plan, store, display).run()
    return store.read(), store


def test_every_fault_costs_its_own_row(faulty_climb):
    records, _ = faulty_climb
    seen = {r["name"]: (r["status"], r["reason"]) for r in records}
    assert seen["baseline"] == ("ok", "")
    assert seen["Refuses"] == ("failed", "not in effect: the probe saw nothing")
    assert seen["Dies"][0] == "failed"
    assert "SIGKILL" in seen["Dies"][1]
    assert seen["Hangs"] == ("timeout", "still running after 8 s")
    assert seen["Runs out"] == ("oom", "OutOfMemoryError: tried to allocate a moon")
    assert seen["Breaks"] == ("failed", "ZeroDivisionError: a rung of straw")
    assert seen["Leaves"][0] == "failed"
    assert "exit status 3" in seen["Leaves"][1]
    assert seen["Does not apply"] == ("skipped", "not on this planet")
    assert seen["Fine"] == ("ok", "")


def test_what_did_not_work_is_not_carried_up(faulty_climb):
    assert faulty_climb[0][-1]["applied"] == [8]


def test_a_search_that_fails_fails_its_rung(tmp_path, monkeypatch):
    """A compiler that broke at batch 4 says nothing about memory."""
    broken = process.Outcome(status="failed", reason="RuntimeError: the compiler broke", wall_s=1.0)
    monkeypatch.setattr(children, "run_job", lambda job, *more: broken)
    store = Records(tmp_path / "records.jsonl")
    plan = Plan(
        ladder=LADDER,
        baseline=baseline("tiny"),
        device=describe("cpu"),
        settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
        numbers=(SEARCHES,),
        preset="tiny",
        timeout=60.0,
    )
    with Display(plan) as display:
        Climb(plan, store, display).run()
    (record,) = store.read()
    assert record["status"] == "failed"
    assert record["reason"].startswith("the search failed at batch 4: RuntimeError: the compiler")
    assert {"csv", "md", "png", "losses"} <= write_results(store.read(), tmp_path, LADDER).keys()


def test_a_failed_rung_has_no_figure_anywhere(faulty_climb, tmp_path):
    frame = to_frame(faulty_climb[0], TRAINING)
    measured = frame["status"] == "ok"
    assert frame.loc[~measured, ["tok_per_s", "loss", "peak_reserved_gib"]].isna().all(axis=None)
    assert frame.loc[measured, "tok_per_s"].notna().all()
    assert {"csv", "md", "png", "losses"} <= write_results(
        faulty_climb[0], tmp_path, faulty.LADDER
    ).keys()
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_no_process_is_left_behind(faulty_climb):
    assert at_work() == []


def test_records_hold_what_a_number_needs(tiny_ladder):
    records = Records(tiny_ladder[0] / "records.jsonl").read()
    top = next(record for record in records if record["rung"] == SEARCHES)
    assert len(records) == LADDER.top + 1
    assert len(top["measurement"]["step_s"]) == PRESETS["tiny"].steps
    assert top["versions"]["torch"]
    assert top["machine"]["cpu"]
    assert (top["recipe"]["dtype"] == "torch.bfloat16") == (BFLOAT16 not in ABSENT)
    assert top["recipe"]["attention"] == "steps.step07_flash_attention.FlashAttention"
    assert len(top["measurement"]["text_sha256"]) == 64
    assert "steps.run" in top["command"]


def test_the_tiny_ladder_is_whole_and_proved(tiny_ladder):
    out, done = tiny_ladder
    assert done.returncode == 0, done.stderr
    said = last_json(done)
    n_a = len(ABSENT)
    assert (said["ok"], said["skipped"], said["failed"]) == (LADDER.top + 1 - n_a, n_a, 0)
    records = {r["rung"]: r for r in Records(out / "records.jsonl").read()}
    proof = {
        n: r["measurement"]["in_effect"].get(str(n))
        for n, r in records.items()
        if n and r["status"] == "ok"
    }
    assert proof[7] == "flash"
    assert proof[8] == "1 graph, 0 breaks"
    assert proof[9] == "50,304 rows"
    assert ABSENT - {BFLOAT16} == {2, 4, 11}
    assert {records[n]["status"] for n in ABSENT} == {"skipped"}
    found, below = records[SEARCHES], records[SEARCHES - 1]
    assert found["recipe"]["batch_size"] > below["recipe"]["batch_size"]
    assert found["note"].startswith("search ended")
    assert all(float(said[k]) >= 0 for k in ("wall_s", "runner_s"))
    for name in ("ladder.csv", "ladder.md", "ladder.png"):
        assert (out / name).stat().st_size > 500


def test_output_is_80_columns_wide(tiny_ladder):
    assert width(tiny_ladder[1].stdout) <= 80


def test_identical_tokens_give_identical_losses_where_declared_exact(tiny_ladder):
    records = Records(tiny_ladder[0] / "records.jsonl").read()
    losses = {r["rung"]: r["measurement"].get("losses") for r in records}
    assert losses[0] == losses[1]
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)
    assert BFLOAT16 in ABSENT or losses[BFLOAT16] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize(
    ("compiler", "status", "code"), [("/no/such/g++", "skipped", 0), ("/bin/false", "failed", 1)]
)
def test_no_compiler_costs_one_row(tmp_path, compiler, status, code):
    done = climb(
        *("--preset", "tiny", "--device", "cpu", "--only", "0,8"),
        *("--rounds", "1", "--out", str(tmp_path)),
        CXX=compiler,
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"),
    )
    assert done.returncode == code, done.stdout + done.stderr
    base, compiled = Records(tmp_path / "records.jsonl").read()
    assert base["status"] == "ok"
    assert compiled["status"] == status
    assert compiled["reason"]
    assert "Traceback" not in done.stdout + done.stderr


def start_ladder(out, *more: str) -> subprocess.Popen:
    command = [sys.executable, *SHORT_RUN, "--preset", "tiny", "--device", "cpu", *more]
    return subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_records(out, count: int) -> None:
    deadline = time.monotonic() + 120
    path = out / "records.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children_of(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def measuring_children(process: subprocess.Popen) -> list[psutil.Process]:
    """The runner's children at work, without the git commands it asks for the commit."""
    found = []
    for child in children_of(process):
        try:
            if "common.engine.child" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_ctrl_c_keeps_what_is_done(tmp_path):
    ladder = start_ladder(tmp_path, "--rounds", "2")
    wait_for_records(tmp_path, 1)
    time.sleep(1.0)
    children = children_of(ladder)
    ladder.send_signal(signal.SIGINT)
    stdout, stderr = ladder.communicate(timeout=60)
    assert ladder.returncode == 130
    assert "Traceback" not in stderr
    again = f"  python -m steps.run --preset tiny --device cpu --rounds 2 --out {tmp_path} --resume"
    kept = len(Records(tmp_path / "records.jsonl").read())
    said = f"Interrupted: {kept} measurements are kept. To go on:\n{again}\n"
    assert said in stdout
    assert "baseline" in stdout
    assert not any(child.is_running() for child in children)


def test_a_killed_runner_leaves_no_child(tmp_path):
    ladder = start_ladder(tmp_path)
    deadline = time.monotonic() + 60
    while not (children := measuring_children(ladder)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)
    ladder.kill()
    ladder.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_killed_child_costs_one_row(tmp_path):
    ladder = start_ladder(tmp_path, "--only", "0,1", "--rounds", "1")
    deadline = time.monotonic() + 60
    while not (seen := measuring_children(ladder)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    seen[0].kill()
    ladder.communicate(timeout=120)
    assert ladder.returncode == 1
    first, second = Records(tmp_path / "records.jsonl").read()
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert "SIGKILL" in first["reason"]


def test_records_skip_a_half_written_line_and_go_on_after_it(tmp_path):
    store = Records(tmp_path / "records.jsonl")
    store.append(fake_record(0, 1, 100.0))
    with store.path.open("a") as file:
        file.write('{"schema": 1, "run_id": "a", "ru')
    store.append(fake_record(1, 1, 100.0))
    assert [record["rung"] for record in store.read()] == [0, 1]


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        Records(tmp_path / "records.jsonl").append({"schema": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no records"),
        ('{"a": 1}\n', "not a file of this project's records"),
        ('{"schema": 99, "run_id": "x"}\n', "newer version"),
        ("[1, 2]\n", "not a file of this project's records"),
    ],
)
def test_what_is_not_a_records_file_is_refused(tmp_path, content, message):
    path = tmp_path / "records.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        Records(path).read()

"""The campaign: what fits is measured by worth, and nothing measured is lost."""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.accelerator.compiler import missing_compiler
from common.cli import campaign
from common.cli.campaign import CUT, DONE, FAILED, TOO_LONG, Campaign, Task, main, share_kept
from common.cli.planning import make_plan, parse
from common.engine import children
from common.engine.device import DeviceFacts
from common.engine.records import Records
from common.workloads.train.presets import baseline
from steps import LADDER
from tests.conftest import PROJECT, SHORT_RUN, not_on_this_cpu, run
from tests.test_resume import at_once

H100 = DeviceFacts(type="cuda", name="NVIDIA H100 80GB HBM3", vendor="nvidia", memory_gib=80.0,
                   native_bf16=True, capability=(9, 0))  # fmt: skip
OTHERS = {  # tasks by name: the ladder, and whether turns are taken
    "inference": ("ladders.inference", True),
    "memory": ("ladders.memory", False),
    "data": ("ladders.data", True),
    "starved": ("ladders.data", True),
}
TINY = ["--preset", "tiny", "--device", "cpu"]


@pytest.fixture
def children_at_once(monkeypatch):
    monkeypatch.setattr(children, "run_job", at_once)


def kept(folder: Path) -> dict:
    return json.loads((folder / "campaign.json").read_text())


def test_all_is_measured_by_worth(tmp_path, monkeypatch, children_at_once, capsys):
    monkeypatch.setattr(campaign, "run_for", made_up_script)
    training = [task for task in campaign.TASKS if task.name not in OTHERS]
    monkeypatch.setattr(campaign, "TASKS", training)
    begin = time.time()
    assert main([*TINY, "--out", str(tmp_path), "--minutes", "30"]) == 0
    said = capsys.readouterr().out
    order = [said.index(f"== {task.what} ==") for task in training]
    assert order == sorted(order)
    state = kept(tmp_path)
    assert set(state["tasks"].values()) == {DONE}
    assert 0 < state["spent_s"] <= time.time() - begin + 1
    steps = Records(tmp_path / "steps" / "records.jsonl").read()
    done = [(r["series"], r["round"], r["rung"]) for r in steps if r["status"] == "ok"]
    assert len(done) == len(set(done))  # each round went on where the one before ended
    assert {turn for series, turn, _ in done if series == "ladder"} == {1, 2, 3}
    assert {series for series, _, _ in done} == {"ladder", "alone", "without"}
    assert (tmp_path / "beyond" / "ladder.png").exists()
    assert (tmp_path / "parallel" / "ladder.png").exists()
    assert "02 with one process over 01: 0.990 (0.990, 0.990)" in said
    assert "all is measured" in said
    assert main([*TINY, "--out", str(tmp_path), "--minutes", "30"]) == 0
    assert "==" not in capsys.readouterr().out  # nothing is left to do


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_ladders_are_climbed_with_commands_that_they_know(name, tmp_path, monkeypatch):
    asked = []

    def planned(command: list[str]) -> int:
        plan, *_ = make_plan(*parse(command))
        asked.append((plan.ladder.name, bool(plan.turns)))
        return 0

    monkeypatch.setattr(campaign.runner, "main", planned)
    assert main([*TINY, "--only", name, "--out", str(tmp_path)]) == 0
    assert asked == [OTHERS[name]]


def made_up_script(command, seconds):
    rate = 990 if "torch.distributed.run" in command else 1000
    return 0, f"Ep 1, Step 000001, Step tok/sec: 5, Avg tok/sec: 5\n… Avg tok/sec: {rate}\n"


def test_a_rehearsal_that_is_cut_in_the_middle_of_a_rung(tmp_path):
    """Real children, a limit that ends while one works, and the same command until all is done."""
    out, eager = tmp_path / "campaign", {"CXX": "/no/such/compiler"}  # this is about the limit
    command = (*SHORT_RUN[:-1], "steps.campaign", *TINY, "--only", "steps,scripts")
    command += ("--out", str(out), "--batch-size", "2")  # the scripts have none to search for
    first = run(*command, "--minutes", "30", "--each", "0.6", timeout=120, **eager)
    assert first.returncode == 0, first.stderr
    assert "the same command goes on from here" in first.stdout
    assert kept(out)["tasks"] == {"steps": CUT}
    before = (out / "steps" / "records.jsonl").read_bytes()
    assert 0 < before.count(b"\n") < LADDER.top + 1
    assert (out / "steps" / "ladder.md").exists()  # what was measured can be read at once
    second = run(*command, "--minutes", "30", timeout=900, **eager)
    assert second.returncode == 0, second.stderr
    assert kept(out)["tasks"] == {"steps": DONE, "scripts": DONE}
    assert (out / "steps" / "records.jsonl").read_bytes().startswith(before)
    records = Records(out / "steps" / "records.jsonl").read()
    absent = not_on_this_cpu(LADDER, baseline("tiny")) | {8}
    status = {r["rung"]: r["status"] for r in records}
    assert status == {n: "skipped" if n in absent else "ok" for n in range(LADDER.top + 1)}
    assert len(records) == LADDER.top + 1
    assert "02 with one process over 01: " in second.stdout


def test_the_budget_is_a_total(tmp_path, children_at_once, capsys):
    command = [*TINY, "--only", "steps", "--out", str(tmp_path), "--minutes", "1"]
    spent = {"spent_s": 61.0, "tasks": {}, "seconds": {}, "options": TINY}
    (tmp_path / "campaign.json").write_text(json.dumps(spent))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "1.0 of 1 minutes are spent: the time is spent; more --minutes go on from here" in said
    assert not (tmp_path / "steps").exists()
    assert main([*command[:-1], "2"]) == 0
    assert kept(tmp_path)["tasks"] == {"steps": DONE}


def test_a_killed_piece_counts_as_a_whole_one(tmp_path):
    piece = a_campaign(tmp_path, each_s=60.0)

    def killed(_, seconds):
        assert kept(tmp_path)["spent_s"] == 60.0  # what stays if nothing more is written
        return DONE

    piece.piece(600.0, [Task("one", "the first", killed)])
    assert kept(tmp_path)["spent_s"] < 10.0


def a_campaign(folder: Path, each_s: float) -> Campaign:
    return Campaign(out=folder, work=None, workload_options=[], each_s=each_s, began=time.time())


def test_a_task_that_is_refused_costs_itself(tmp_path, capsys):
    def refused(_, seconds):
        raise campaign.UserError("not here")

    piece = a_campaign(tmp_path, each_s=60.0)
    fine = Task("fine", "works", lambda _, seconds: DONE)
    piece.piece(600.0, [Task("refused", "does not", refused), fine])
    assert piece.tasks == {"refused": FAILED, "fine": DONE}
    assert "refused: not here" in capsys.readouterr().out


def test_a_rung_that_is_longer_than_a_piece_is_not_begun_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign.runner, "main", lambda command: time.sleep(60))
    piece = a_campaign(tmp_path, each_s=2.0)
    work = campaign.ladder(folder="steps")
    assert work(piece, 1.9) == TOO_LONG
    assert work(piece, 0.5) == CUT  # it had no whole piece: the next one may do


def test_an_interrupt_by_hand_ends_the_campaign(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign.runner, "main", lambda command: campaign.runner.INTERRUPTED)
    command = [*TINY, "--only", "steps,beyond", "--out", str(tmp_path)]
    assert main(command) == campaign.runner.INTERRUPTED
    assert kept(tmp_path)["tasks"] == {"steps": CUT}
    assert "beyond" in capsys.readouterr().out


def test_a_script_that_fails_leaves_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "run_for", lambda *_: (1, "so far\nerror: no device\n"))
    command = [*TINY, "--only", "scripts", "--out", str(tmp_path)]
    assert main(command) == 0
    assert kept(tmp_path)["tasks"] == {"scripts": FAILED}
    assert "no device" in (tmp_path / "scripts" / "run-0.log").read_text()


def test_a_script_whose_time_is_over_ends_with_what_it_started(tmp_path):
    """As torchrun does on SIGTERM, and would not on SIGKILL."""
    worker = "import time; time.sleep(60)"
    starts = (
        "import signal, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {worker!r}])\n"
        "signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit(143)))\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    status, said = campaign.run_for([sys.executable, "-c", starts], 2.0)
    assert status is None
    with contextlib.suppress(psutil.NoSuchProcess):  # nobody may have asked yet how it ended
        started = psutil.Process(int(said.split()[0]))
        for _ in range(100):  # a killed process is gone as soon as it is given a core
            if started.status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.05)
        assert started.status() == psutil.STATUS_ZOMBIE


def test_only_whole_pairs_are_compared(tmp_path):
    rows = tmp_path / "scripts.jsonl"
    assert share_kept(rows) == ""
    rows.write_text("".join(f'{{"tok_per_s": {rate}}}\n' for rate in (100, 98, 100)))
    assert share_kept(rows) == "02 with one process over 01: 0.980 (0.980)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes: 0: must be a number of minutes above 0"),
        (["--only", "steps,stairs"], "--only stairs: unknown; allowed: steps, again, beyond"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, refusal, options, message):
    assert message in refusal(main, [*TINY, "--out", str(tmp_path / "new"), *options])


@pytest.mark.parametrize("content", ["[]", "{", '{"spent_s": 1}'])
def test_a_damaged_campaign_is_a_sentence(tmp_path, refusal, content):
    (tmp_path / "campaign.json").write_text(content)
    assert "cannot be read as a campaign" in refusal(main, [*TINY, "--out", str(tmp_path)])


def test_another_workload_wants_another_folder(tmp_path, refusal):
    state = {"spent_s": 1.0, "tasks": {}, "seconds": {}, "options": ["--layers", "3"]}
    (tmp_path / "campaign.json").write_text(json.dumps(state))
    said = refusal(main, [*TINY, "--out", str(tmp_path)])
    assert "holds a campaign with --layers 3; give another folder" in said


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(campaign, "missing_compiler", lambda device: "no C++ compiler: g++")
    options = campaign.make_parser().parse_args(["--preset", "tiny"])
    (compiler, nvml) = campaign.missing(H100, options)
    assert compiler == "torch.compile: no C++ compiler: g++; rungs that need it do not apply"
    assert nvml.startswith("NVML does not answer")


def test_the_default_folder_is_named_after_the_device():
    assert campaign.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert "/results/campaign-*/" in (PROJECT / ".gitignore").read_text()


@pytest.mark.parametrize(
    ("here", "cc", "header", "reason"),
    [
        ({"gcc"}, None, True, None),
        ({"clang"}, None, True, None),
        (set(), None, True, "neither clang nor gcc found"),
        ({"gcc"}, "icx", True, "icx, named by CC, not found"),
        ({"gcc"}, None, False, "Triton needs Python.h"),
    ],
)
def test_triton_needs_a_c_compiler_and_pythons_header(
    tmp_path, monkeypatch, here, cc, header, reason
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # Triton is there
    monkeypatch.setattr(shutil, "which", lambda name: name if name in here else None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if cc:
        monkeypatch.setenv("CC", cc)
    if header:
        (tmp_path / "Python.h").touch()
    found = missing_compiler(H100)
    assert (reason is None and found is None) or reason in found
    if reason and "header" in reason:
        assert f"{sys.version_info.major}.{sys.version_info.minor}" in found

"""Somebody's command, timed by its lines: what is seen of it, and what is said when it is wrong."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from common.cli import run as command
from common.cli.planning import parse
from common.engine.contract import NotInEffect
from common.engine.errors import UserError
from common.engine.records import Records
from common.workloads.command import workload
from common.workloads.command.lines import Line
from common.workloads.command.program import KEEPER, Program
from common.workloads.command.settings import Settings
from ladders.environment import LADDER, step01_page_faults, step02_threads
from tests.conftest import PROJECT, width

SCRIPT = shlex.join([sys.executable, str(PROJECT / "tests" / "pacing_script.py")])
STEP = r"^step \d+: loss (?P<loss>[\d.]+)"
SHORT = ("--steps", "6", "--warmup", "2", "--rounds", "1")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """As if the user had set nothing of what rungs set."""
    for name in ("OMP_NUM_THREADS", "GLIBC_TUNABLES", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def settings(line: str = r"step \d+", command: str = SCRIPT, **more) -> Settings:
    given = {"steps": 6, "warmup": 2, "command": command, "line": line, "patience_s": 20.0}
    return Settings(**given | more)


# -- lines --


@pytest.mark.parametrize(
    ("pattern", "text", "rate", "loss"),
    [
        (r"step \d+", "a step 3", None, None),
        (r"([\d,.]+) tok/s", "12,345.5 tok/s", 12345.5, None),
        (r"loss (?P<loss>\S+), (\S+) it/s", "loss 1e-3, 4.5 it/s", 4.5, 1e-3),
        (r"(?P<rate>\S+) it/s (?:a|b)", "7 it/s b", 7.0, None),
        (r"loss (?P<loss>\S+)", "loss 2", None, 2.0),
    ],
)
def test_a_line_says_a_rate_and_a_loss(pattern, text, rate, loss):
    assert Line(pattern).find(text, 1.5) == (1.5, rate, loss)
    assert Line(pattern).find("another", 1.5) is None


@pytest.mark.parametrize(
    ("pattern", "text", "words"),
    [
        ("step (", "", "--line step (: no regular expression (missing )"),
        (r"(\d) (\d)", "", "has 2 groups; allowed: one group at most"),
        (r"step (\w+)", "step many", "a group holds 'many', which is no number"),
        (r"step( \d)?", "step", "a group holds None, which is no number"),
        (r"loss (?P<loss>\w+)", "loss nan", "a group holds 'nan', which is no number"),
        (r"at (\S+)", "at -1", "a rate must be above 0"),
    ],
)
def test_a_line_that_says_none_is_refused(pattern, text, words):
    with pytest.raises(UserError) as refused:
        Line(pattern).find(text, 0.0)
    assert words in str(refused.value)


# -- what is wrong is said once, before the climb --

PRINTS = "import time\nfor n in range({n}): print('step', n{more}, flush=True); time.sleep({wait})"
RANDOM = "import random, time\nwhile True: print('loss', random.random()); time.sleep(0.01)"
BURSTS = "import time\nfor n in range(99):\n  print('step', n)\n  if n % 3 == 2: time.sleep(0.1)"
REFUSED = [
    ((), "--command: a command is needed"),
    (("--command", "no/such x"), "--command no/such x: there is no command no/such"),
    (("--command", "a 'b"), "--command a 'b: cannot be split (No closing quotation)"),
    (("--command", SCRIPT), "--line: is needed with --command"),
    (("--command", SCRIPT, "--line", "("), "--line (: no regular expression"),
    (("--command", SCRIPT, "--line", "x", "--budget", "1m"), "a command cannot take turns"),
    (
        ("--command", python("raise SystemExit('it\\nbroke')"), "--line", "x"),
        "ended with exit status 1 after 0 matching lines; its last line was: broke",
    ),
    (
        ("--command", python("import os; os.kill(os.getpid(), 9)"), "--line", "x"),
        "ended with exit status 137 after 0 matching lines; its last line was: (none)",
    ),
    (
        ("--command", SCRIPT, "--line", "epoch", "--patience", "0.5"),
        "--line epoch: no line matched within 0.5 s (--patience); the last line was: step",
    ),
    (
        ("--command", python(PRINTS.format(n=5, more="", wait=0)), "--line", "step", *SHORT),
        "5 lines matched before the command ended, 8 are needed (--warmup and --steps)",
    ),
    (
        ("--command", SCRIPT, "--line", r"step (\S+)", *SHORT),
        "a group holds '0:', which is no number",
    ),
    (
        ("--command", python(RANDOM), "--line", "loss (?P<loss>.*)", *SHORT),
        "the same command twice has losses that differ by",
    ),
    (("--command", python(BURSTS), "--line", "step", *SHORT), "the lines came in bursts"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_is_wrong_is_one_sentence(options, words, refusal, tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "print", lambda *a, **k: None, raising=False)
    said = refusal(command.main, ["--ladder", "environment", *options, "--out", str(tmp_path)])
    assert words in said
    assert not (tmp_path / "records.jsonl").exists()


def test_the_command_says_which_ladder_is_meant():
    assert parse(["--command", "x"])[0] is parse(["--command=x"])[0] is LADDER
    assert parse([])[0].name == "steps"


# -- a climb --


def climb(folder: Path, *options: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "MALLOC"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unwatched", "steps.run", *options, "--out", str(folder)],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """Rungs whose variables the script goes by, a rung that changes its losses, one that n/a."""
    out = tmp_path_factory.mktemp("command")
    told = ("--command", SCRIPT, "--line", STEP, "--only", "0,1,2,3,6", *SHORT, "--json")
    said, errors = climb(out, *told).communicate(timeout=120)
    return said, errors, {r["rung"]: r for r in Records(out / "records.jsonl").read()}, out


def test_a_variable_that_acts_is_measured_and_proven(climbed):
    _, errors, records, _ = climbed
    assert errors.startswith("trying the command as it is\n")
    before, after = records[0]["measurement"], records[1]["measurement"]
    assert before["rate"] < 1 / 0.03 and 1.3 * before["rate"] < after["rate"] < 1 / 0.015
    assert records[1]["candidates"].keys() == {"kept pages", "huge pages"}
    assert records[1]["recipe"]["allocator"] == [*step01_page_faults.CHOICES["kept pages"]]
    assert after["in_effect"] == {"1": "kept pages, by the environment"}
    assert len(after["step_s"]) == 6 and 0 < after["first_line_s"] < 10
    assert after["peak_resident_gib"] > 0.005 and after["threads"] >= 1


def test_losses_are_the_gate(climbed):
    _, _, records, _ = climbed
    assert records[1]["equivalence"] == {
        "claim": "rounding", "error": 0.0, "where": "line 5", "limit": 1e-3, "formats": [],
    }  # fmt: skip
    assert records[0]["measurement"]["loss"] == pytest.approx(4 - 0.045)
    if records[2]["status"] != "skipped":  # with one core there is nothing to choose
        assert "not equivalent: line" in records[2]["reason"]


def test_threads_that_are_not_bound_are_no_proof(climbed):
    _, _, records, _ = climbed
    assert any(words in records[3]["reason"] for words in ("threads is bound", "one core"))


def test_a_command_that_does_not_compile_is_no_failure(climbed):
    _, _, records, _ = climbed
    assert records[6]["status"] == "skipped"
    assert "the command does not compile" in records[6]["reason"]


def test_the_report_says_how_little_is_known(climbed):
    said, _, records, out = climbed
    assert "Seen from outside" in said
    assert width(said) <= 80
    page = (out / "ladder.md").read_text()
    assert "the rate is its lines per second" in page and "pacing_script.py" in page
    machine = records[0]["machine"]
    assert page.startswith(f"# {machine['device']} ({machine['cpus_allowed']} cores, ")
    counts = json.loads(said.splitlines()[-1])
    assert (counts["ok"], counts["skipped"] + counts["failed"]) == (2, 3)
    settings = records[0]["settings"]
    assert settings["sha256"] != ""
    words = Path(sys.executable).name, "pacing_script.py"
    assert tuple(shlex.split(settings["command"])) == words  # no folder of this machine
    for text in (records[0]["command"], page):
        assert str(PROJECT) not in text and f"{out.parent}" not in text


def test_ctrl_c_ends_all_that_it_started_and_a_run_goes_on(tmp_path):
    folder, out = tmp_path / "pids", tmp_path / "out"
    folder.mkdir()
    which = ("--only", "0,4", "--steps", "40", "--warmup", "2", "--rounds", "2")
    options = ("--command", f"{SCRIPT} {folder}", "--line", "step", *which)
    run = climb(out, *options)
    while run.poll() is None and not (out / "records.jsonl").exists():
        time.sleep(0.02)
    while run.poll() is None and len([*folder.iterdir()]) < 3:  # the trial's, and two rungs'
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "--resume" in said
    pids = [int(pid) for note in folder.iterdir() for pid in note.read_text().split()]
    assert len(pids) >= 6
    deadline = time.monotonic() + 10
    while (left := [*filter(psutil.pid_exists, pids)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    said, _ = climb(out, *options, "--resume").communicate(timeout=60)
    assert "resuming: " in said and "resuming: 0" not in said
    found = [(r["round"], r["rung"]) for r in Records(out / "records.jsonl").read()]
    assert found.count((1, 0)) == found.count((2, 0)) == 1


# -- a program from outside --


def test_a_program_finds_its_own_environment(monkeypatch):
    """Neither this project on its path nor the pipe of events."""
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}{os.pathsep}/of/the/user")
    monkeypatch.setenv("LADDER_EVENTS", "pipe")
    with Program(settings("path"), {}) as program:
        program.next()
        assert program.last == "path /of/the/user events None"


def test_a_progress_bar_has_lines_too():
    code = "import time\nfor n in range(9): print(f'{n} it', end='\\r'); time.sleep(0.01)"
    with Program(settings(r"(\d) it", python(code)), {}) as program:
        with pytest.raises(UserError, match="a rate must be above 0"):
            program.next()
        assert [program.next().rate for _ in range(8)] == [*range(1, 9)]


def test_processes_are_held_to_their_environment():
    told = {"OMP_NUM_THREADS": "3"}
    with Program(settings(), told) as program:
        program.next()
        program.prove(("OMP_NUM_THREADS=3",))
        with pytest.raises(NotInEffect, match="was started with OMP_NUM_THREADS=3, not 4"):
            program.prove(("OMP_NUM_THREADS=4",))
    with pytest.raises(NotInEffect, match="no process any more"):
        program.prove(())


def test_a_wrapper_that_overrides_it_is_seen():
    wrapped = f"env OMP_NUM_THREADS=1 {SCRIPT}"
    with Program(settings(command=wrapped), {"OMP_NUM_THREADS": "3"}) as program:
        program.next()
        with pytest.raises(NotInEffect, match="OMP_NUM_THREADS=1, not 3"):
            program.prove(("OMP_NUM_THREADS=3",))


TOUCHES = """
import mmap, os, time
path = os.path.join({folder!r}, "torchinductor_me", "k.so")
os.makedirs(os.path.dirname(path))
with open(path, "wb") as file:
    file.write(bytes(4096))
kept = mmap.mmap(os.open(path, os.O_RDONLY), 4096, prot=mmap.PROT_READ)
for step in range(1000):
    print("step", step)
    fresh = mmap.mmap(-1, 400 * 4096)
    for page in range(400):
        fresh[4096 * page] = 1
    fresh.close()
    time.sleep(0.01)
"""


def test_faults_threads_memory_and_compiled_files_are_read(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it as it compiles
    with Program(settings(command=python(TOUCHES.format(folder=str(tmp_path)))), {}) as program:
        program.next()
        before, deadline = program.page_faults(), time.monotonic() + 10
        while program.page_faults() - before < 4000 and time.monotonic() < deadline:
            program.next()
        assert program.page_faults() - before >= 4000  # of ten steps
        assert program.compiled_files() == 1
        assert program.threads() == 1
        assert program.peak_bytes() > 2**22
        assert not program.on_gpu() and program.huge_mib() >= 0
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2} if pid == 0 else {1})
        assert program.bound_threads() == 1


def test_the_keeper_has_the_commands_exit_status():
    for code, status in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 15)", 143)):
        words = [sys.executable, str(KEEPER), sys.executable, "-c", code]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as keeper:
            assert keeper.wait(timeout=30) == status


# -- rungs --


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(step02_threads, "allowed_cpus", lambda: 8)
    reason = step02_threads.applies(None, LADDER.workload.recipe())
    assert reason == "OMP_NUM_THREADS is set to 5 already"


def test_a_recipe_travels_as_plain_values():
    recipe = LADDER.compose(LADDER.workload.recipe(), range(1, LADDER.top + 1))
    values = json.loads(json.dumps(LADDER.workload.dump(recipe)))
    assert values == LADDER.workload.dump(recipe) and LADDER.workload.load(values) == recipe
    assert len(recipe.environment) == 3 + 1 + 2 + 1 + 2 + 1
    assert replace(recipe, threads=()).environment.keys() < recipe.environment.keys()

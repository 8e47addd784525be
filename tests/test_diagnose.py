"""Who waits for whom: rules over made-up readings, and trainings starved in four ways for real."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cli.diagnose import main
from common.diagnose import gpu, watching
from common.diagnose.finding import ALARM, NOTE, UNKNOWN
from common.diagnose.gpu import GpuTimeline, gpu_of, have_open
from common.diagnose.readings import Growth, Readings
from common.diagnose.rules import RULES, diagnose, recommended
from common.diagnose.summary import MIB, core_wait, growth, of_cores, of_rest, worker_share
from common.diagnose.tallies import of_process
from common.diagnose.tree import Glance, Worker
from common.diagnose.wording import in_a_line, to_json, to_text
from common.engine.gpu_watch import GpuWatch
from common.scripts.waits import Waits
from tests.conftest import PROJECT, last_json, run, width
from tests.starved import WAYS
from tests.test_gpu_watch import FakeNvml

GPU = {"device": "cuda", "cores": 8, "data_wait": 0.0}
CPU = {"device": "cpu", "cores": 2, "busy": 0.95, "data_wait": 0.0}
LEAK = Growth(bytes_per_s=MIB, growing=2, free=600 * MIB)
STEADY = Growth(bytes_per_s=0.0, growing=0, free=1)
SLOW = CPU | {"data_wait": 0.5, "loader_workers": 0}


# -- rules, over made-up readings --

TABLE = [  # readings, alarms, what is recommended and in which words, and its gain
    (GPU | {"busy": 0.95}, "", None, "", None),
    (GPU | {"busy": 0.70}, "", None, "", None),
    (GPU | {"busy": 0.5, "data_wait": 0.3}, "device data gaps", "data", "background", 1 / 0.7),
    (GPU | {"busy": 0.5, "batch_size": 1}, "device gaps", "gaps", "larger than 1", 2.0),
    (GPU | {"busy": 0.5, "batch_size": 64}, "device gaps", "gaps", "torch.compile", 2.0),
    (GPU | {"busy": 0.5, "data_wait": None}, "device", None, "", None),
    (GPU | {"busy": None, "data_wait": 0.3}, "data", "data", "background", 1 / 0.7),
    # the GPU works on while the host waits: that is the most there is to gain
    (GPU | {"busy": 0.8, "data_wait": 0.5}, "data", "data", "background", 1 / 0.8),
    (GPU | {"busy": 0.97, "data_wait": 0.5}, "", None, "", None),
    (CPU, "", None, "", None),
    (CPU | {"data_wait": 0.1}, "", None, "", None),
    (
        CPU | {"data_wait": 0.6, "loader_workers": 0, "cores_busy": 0.5},
        *("data", "data", "num_workers=2", 2.0),  # by the cores; by the wait alone 2.5
    ),
    (
        CPU | {"data_wait": 0.6, "loader_workers": 0, "cores_busy": 0.98},
        *("data", "data", "less work", 2.5),
    ),
    (
        CPU | {"data_wait": 0.8, "loader_workers": 1, "cores_busy": 0.6, "workers_busy": 0.99},
        *("data", "data", "num_workers=2", 1 / 0.6),
    ),
    (  # as many workers as cores are there: another one would gain nothing
        CPU | {"data_wait": 0.8, "loader_workers": 2, "cores_busy": 0.6, "workers_busy": 0.99},
        *("data", "data", "less work", 5.0),
    ),
    (
        CPU | {"data_wait": 0.5, "loader_workers": 2, "cores_busy": 0.3, "workers_busy": 0.1},
        *("data", "data", "the workers compute only 10% of the time", 2.0),
    ),
    (
        CPU | {"data_wait": 0.4, "data_start": 0.35, "loader_workers": 2, "persistent": False},
        *("data", "data", "persistent_workers=True", 1 / 0.65),
    ),
    (CPU | {"busy": 0.4, "threads": 1}, "device gaps", "gaps", "set_num_threads(2)", 2.5),
    (CPU | {"busy": 0.4, "threads": 2}, "device gaps", "gaps", "larger batch", 2.5),
    (CPU | {"workers": 2}, "", None, "", None),
    (CPU | {"workers": 3}, "workers", "workers", "num_workers=2", None),
    (CPU | {"workers": 3, "core_wait": 0.2}, "core workers", "core", "num_workers=1", 1.25),
    (CPU | {"core_wait": 0.2}, "core", "core", "OMP_NUM_THREADS", 1.25),
    (CPU | {"core_wait": 0.2, "others": 0.3}, "", None, "", None),  # noted only
    (CPU | {"workers": 1, "growth": LEAK}, "memory", "memory", "from sample to sample", None),
    (
        CPU | {"workers": 1, "growth": STEADY},
        "",
        None,
        "",
        None,
    ),
    # one that makes training faster comes before one that does not
    (CPU | {"data_wait": 0.3, "growth": LEAK}, "data memory", "data", "", 1 / 0.7),
    ({}, "", None, "", None),
]


@pytest.mark.parametrize(("seen", "alarms", "best", "words", "gain"), TABLE)
def test_rules(seen, alarms, best, words, gain):
    findings = diagnose(Readings(**seen))
    assert {one.name for one in findings if one.verdict == ALARM} == {*alarms.split()}
    chosen = recommended(findings)
    assert (chosen and chosen.name) == best
    if chosen:
        assert words in chosen.advice
        assert chosen.gain == (None if gain is None else pytest.approx(gain))
        assert (chosen.reason != "") == (gain is not None)
    assert all(one.sentence.endswith(".") for one in findings)


@pytest.mark.parametrize("seen", [row[0] for row in TABLE])
def test_the_report_is_80_columns_wide_and_says_at_most(seen):
    said = to_text(Readings(seconds=12.0, steps=300, **seen))
    assert width(said) <= 80
    best = recommended(diagnose(Readings(**seen)))
    advice = said.partition("Recommended")[2].replace("\n", " ")
    assert ("at most" in advice) == bool(best and best.gain)
    assert said.count("Recommended: ") == bool(best)


def test_what_is_not_measured_is_never_0():
    findings = diagnose(Readings())
    assert len(findings) == len(RULES)
    assert all((one.verdict, one.value) == (UNKNOWN, None) for one in findings)
    said = to_text(Readings())
    assert said.count("not measured") == len(RULES)
    assert said.endswith("Nothing could be measured.")
    told = json.loads(json.dumps(to_json(Readings(), 0)))
    assert {one["value"] for one in told["findings"]} == {None}
    assert told["recommended"] is None


def test_a_cause_that_was_not_seen_is_not_made_up():
    idle = GPU | {"busy": 0.5, "data_wait": None}
    assert to_text(Readings(**idle)).endswith(
        "Started with -- COMMAND, more of the training is measured."
    )
    assert to_text(Readings(**idle, inside=True)).endswith("No cause was seen.")


def test_other_programs_are_noted():
    findings = diagnose(Readings(**CPU, core_wait=0.2, others=0.3))
    assert {one.name for one in findings if one.verdict == NOTE} == {"core", "others"}
    said = to_text(Readings(**CPU, core_wait=0.2, others=0.3))
    assert "Other programs took 30% of all cores' time." in said
    assert said.endswith("No alarm.")


def test_how_long_memory_lasts_is_said():
    said = to_text(Readings(**CPU, growth=LEAK))
    assert "grew by 60 MiB a minute; at that rate the 0.6 GiB" in said.replace("\n", " ")
    assert "last 10 minutes" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (
            CPU | {"busy": None, "data_wait": 0.003},
            "Nobody waits: 0.3% of the time went to waiting",
        ),
        (GPU | {"busy": 0.97}, "waiting for data. The GPU was busy 97% of the time."),
        (
            CPU | {"data_wait": 0.5, "loader_workers": 0},
            "50.0% of the time went to waiting for data.",
        ),
        (SLOW, "Recommended: make samples in worker"),
        (GPU | {"busy": 0.5, "batch_size": 1}, "The GPU was busy only 50% of the time; the likely"),
        ({}, ""),
    ],
)
def test_a_training_says_it_in_a_line(seen, line):
    said = in_a_line(Readings(**seen))
    assert line in said
    assert bool(line) == bool(said)


def test_a_script_sums_its_waits_without_the_first_step():
    waits = Waits("cpu", "a CPU", 0)
    assert waits.line(8, 0, 1) == ""
    waits.start()
    waits.stop(9.0)
    waits.drop()
    waits.take(2.0, 0.01)
    waits.take(2.0, 0.01)
    assert waits.line(8, 0, 1) == "Nobody waits: 0.5% of the time went to waiting for data."
    waits.take(4.0, 4.0)
    assert width(said := waits.line(8, 0, 1)) <= 80
    assert "50.2% of the time went to waiting for data" in said.replace("\n", " ")


# -- readings, from made-up glances --


def glance(at: float, **changes) -> Glance:
    plain = {"cpu_s": 0.0, "host": (0.0, 4 * at), "workers": {}, "core_wait": {}, "spent": {}}
    return Glance(at=at, **plain | changes)


def held(sizes: list[int | None]) -> list[Glance]:
    """Glances a tenth of a second apart at a worker that holds so many MiB."""
    return [
        glance(n / 10, workers={7: Worker(0.0, 0.0, size if size is None else int(size * MIB))})
        for n, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "rate"),
    [
        ([*range(50, 90)], 10 * MIB),  # a MiB each glance
        ([50] * 20 + [*range(50, 70)], 10 * MIB),
        ([*range(10, 50), *[50] * 40], 0),  # warm-up
        ([50] * 40, 0),
        ([50, 58] * 20, 0),  # up and down
        ([50 + n / 100 for n in range(40)], 0),  # too little to be called growth
        ([50] * 11, None),
        ([None] * 40, None),
        ([], None),
    ],
)
def test_a_workers_memory_grows_only_if_it_does_so_all_the_time(sizes, rate):
    found = growth(held(sizes))
    assert (found and found.bytes_per_s) == (rate if rate is None else pytest.approx(rate, rel=0.3))


def test_shares_of_cores_and_of_workers():
    first = glance(0.0, core_wait={3: 1.0}, workers={7: Worker(0.0, 0.0, None)})
    last = glance(
        10.0,
        cpu_s=10.0,
        host=(20.0, 10.0 * (cores := os.cpu_count())),
        core_wait={3: 2.0},
        spent={3: 9.0, 4: 1.0},
        workers={7: Worker(4.0, 1.0, None)},
    )
    own, others = of_cores([first, last], cores)
    assert (own, others) == (pytest.approx(1 / cores), pytest.approx(min(1.0, 1 / cores)))
    assert of_cores([first, last], cores + 1)[1] is None  # not all cores are the training's
    assert of_cores([first, glance(0.5)], cores) == (None, None)
    assert of_rest(0.25, 0.5) == 0.5
    assert of_rest(0.25, None) == 0.25
    assert of_rest(None, 0.5) is None
    assert of_rest(0.0, 1.0) == 1.0
    assert core_wait([first, last], 3) == core_wait([first, last], None) == pytest.approx(0.1)
    assert core_wait([first, last], 4) is None
    assert worker_share([first, last]) == pytest.approx(0.5)


def marks(steps: int, batches: int) -> dict:
    """What a process tells that waited for half of 10 seconds."""
    ends = [[1.0, 0.5, 0.5, 1], [11.0, 5.5, 0.5, 1 + batches], steps]
    return {"marks": {"steps": ends}, "loader": {"workers": 0, "batch_size": 2}}


def test_shares_are_from_the_first_step_to_the_last():
    found = of_process(1, marks(steps=21, batches=20))
    assert (found.steps, found.data_wait, found.data_start) == (20, 0.5, 0.0)
    assert found.loader["batch_size"] == 2


def test_a_loader_that_does_not_feed_the_steps_tells_nothing_of_their_waits():
    found = of_process(1, marks(steps=21, batches=2))
    assert found.data_wait is None and found.loader == {}


# -- the GPU, on a made-up NVML --


def test_a_gpu_is_found_by_who_has_it_and_watched():
    own, two = {os.getpid()}, ("A", "B")
    assert gpu_of(own, False, FakeNvml(two, processes=[[1], [*own]])).handle == "GPU-1"
    assert gpu_of(own, False, FakeNvml(processes=[[1]])) is None
    assert gpu_of(own, True, FakeNvml(processes=[[1]])).handle == "GPU-0"  # a container's ids
    assert gpu_of(own, True, FakeNvml(processes=[])).handle == "GPU-0"  # NVML does not tell
    assert gpu_of(own, True, FakeNvml(two, processes=[[1], [1]])) is None
    assert gpu_of(own, True, FakeNvml(installed=False)) is None


def test_an_open_gpu_is_seen(monkeypatch, tmp_path):
    assert not have_open({os.getpid(), 999_999_999})
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpu, "GPU_FILES", str(tmp_path / "nvidia"))
    with (tmp_path / "nvidia0").open():
        assert have_open({os.getpid()})


def test_the_gpus_windows_before_the_first_step_are_left_out():
    nvml = FakeNvml(utilisation=[10, 50, 50], processes=[])
    watch = GpuWatch("cuda", nvml.names[0], interval_s=0.002, nvml=nvml)
    timeline = GpuTimeline(os.getpid(), watch)
    while len(nvml.script["utilisation"]) > 2:
        time.sleep(0.001)
    timeline.stop()
    first = timeline.stretches[-1]
    timeline.start()
    while nvml.script["utilisation"]:
        time.sleep(0.001)
    time.sleep(0.01)
    timeline.stop()
    assert timeline.busy(first.end, time.monotonic()) == pytest.approx(0.5)
    assert timeline.busy(time.monotonic(), time.monotonic()) is None


# -- for real --


DOOR = (sys.executable, "steps/diagnose.py")  # as a script: -m would import torch, for 2 seconds


def paths(*folders: Path) -> str:
    return os.pathsep.join(map(str, (*folders, PROJECT)))


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return run(*DOOR[1:], *words, timeout=60, **{"PYTHONPATH": paths()} | environment)


@pytest.fixture(scope="module")
def starved(whole_machine) -> dict[str, SimpleNamespace]:
    """Trainings that are starved for real, each in its way, and what is said of them.

    The machine is theirs: every core is looked at.
    """
    with whole_machine():
        found = {how: watched(how) for how in WAYS}
        if found["healthy"].alarms:  # a virtual machine's cores may be lent to others for a second
            found["healthy"] = watched("healthy")
    return found


def watched(how: str) -> SimpleNamespace:
    done = command("--json", "--", sys.executable, "-m", "tests.starved", how)
    assert done.stderr == ""
    assert done.returncode == 7, done.stdout  # the training's own
    assert " steps\n" in done.stdout.partition("Watched")[0]
    assert width(done.stdout) <= 80
    told = last_json(done)
    findings = {one["name"]: one for one in told["findings"]}
    alarms = {name for name, one in findings.items() if one["verdict"] == ALARM}
    return SimpleNamespace(**told, by_name=findings, alarms=alarms, said=done.stdout)


def test_samples_made_in_the_main_process_are_told(starved):
    seen = starved["main-process"]
    assert "data" in seen.alarms
    assert seen.readings["data_wait"] > 0.3  # 0.8 where nothing else runs
    assert seen.readings["loader_workers"] == 0
    assert seen.recommended["finding"] == "data"


def test_a_worker_that_is_too_slow_is_told(starved):
    seen = starved["slow-worker"]
    assert "data" in seen.alarms
    assert seen.readings["data_wait"] > 0.5
    assert seen.readings["loader_workers"] == 1
    assert seen.recommended["finding"] == "data"


def test_more_workers_than_cores_are_told(starved):
    seen = starved["many-workers"]
    assert "workers" in seen.alarms
    assert seen.readings["workers"] > seen.readings["cores"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are told apart by name on Linux only")
def test_a_worker_that_grows_is_told(starved):
    seen = starved["growing-worker"]
    assert "memory" in seen.alarms
    assert seen.by_name["memory"]["value"] > 60  # MiB a minute
    assert "memory" not in starved["slow-worker"].alarms


def test_a_healthy_training_raises_no_alarm(starved):
    seen = starved["healthy"]
    assert seen.alarms == set(), seen.said
    assert seen.recommended is None
    assert "No alarm." in seen.said
    assert seen.readings["data_wait"] < 0.1


def test_a_program_without_torch_runs_as_it_would(tmp_path):
    """Its output, its exit status, and the user's own sitecustomize; and nothing is left behind."""
    (tmp_path / "own").mkdir()
    (tmp_path / "left").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("print('mine')\n")
    program = (
        "import sys, sitecustomize\n"
        "assert not any('tally' in entry for entry in sys.path)\n"
        "assert 'torch' not in sys.modules and 'json' not in sys.modules\n"
        "print(sitecustomize.__file__, file=sys.stderr)\n"
        "sys.exit(input())\n"
    )
    environment = {"PYTHONPATH": paths(tmp_path / "own"), "TMPDIR": str(tmp_path / "left")}
    done = subprocess.run(
        [*DOOR, "--", sys.executable, "-c", program],
        cwd=PROJECT,
        env=os.environ | environment,
        input="a status that is printed\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    own = str(tmp_path / "own" / "sitecustomize.py")
    assert done.stderr.splitlines() == [own, "a status that is printed"]
    assert done.stdout.startswith("mine\n")
    assert done.stdout.count("mine") == 2  # this process has it, too
    assert not list((tmp_path / "left").iterdir())


def test_a_sitecustomize_that_fails_fails_as_without_us(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("1 / 0\n")
    path = paths(tmp_path)
    alone = run("-c", "print('on')", PYTHONPATH=path)
    done = command("--", sys.executable, "-c", "print('on')", PYTHONPATH=path)
    assert done.stderr.count("ZeroDivisionError") == 2 * alone.stderr.count("ZeroDivisionError")
    assert "on\n" in done.stdout


def test_a_signal_that_ends_the_program_is_its_exit_status():
    kill = "import os; os.kill(os.getpid(), 9)"
    assert command("--", sys.executable, "-c", kill).returncode == 128 + signal.SIGKILL


WAITS = (
    "import os, time\n"
    "try:\n"
    "    print(os.getpid(), flush=True)\n"
    "    time.sleep(60)\n"
    "except KeyboardInterrupt:\n"
    "    raise SystemExit(4)\n"
)


@pytest.mark.parametrize(
    ("kind", "status"), [(signal.SIGINT, 4), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_what_ends_us_ends_the_program(tmp_path, kind, status):
    """The program answers as it would, and what was seen is still said."""
    # what a shell starts in the background ignores Ctrl-C, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*DOOR, "--", sys.executable, "-c", WAITS],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": paths()},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # no terminal tells the program: it must be passed on
    ) as watching_it:
        pid = int(watching_it.stdout.readline())
        watching_it.send_signal(kind)
        said = watching_it.communicate(timeout=30)[0]
    assert watching_it.returncode == status
    assert "Watched" in said
    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.iterdir())


def test_a_running_process_is_watched_from_outside(capsys):
    busy = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        try:
            assert main([str(process.pid), "--seconds", "1.5", "--json"]) == 0
        finally:
            process.kill()
    told = json.loads((said := capsys.readouterr().out).splitlines()[-1])
    findings = {one["name"]: one for one in told["findings"]}
    assert width(said) <= 80
    assert findings["device"]["value"] > 0.2
    assert findings["data"]["verdict"] == UNKNOWN
    assert "start the training with" in findings["data"]["sentence"]


# -- mistakes --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give a process id, or a command behind --: python -m steps.diagnose -- python"),
        (("--",), "--: a command is needed behind it"),
        (("--", ""), "--: a command is needed behind it"),
        (("--", "no-such-command"), "-- no-such-command: no such command"),
        (("--", sys.executable, "a\0b"), "cannot be started"),
        (("train.py",), "train.py: give a process id, or a command behind --"),
        (("0",), "0: give a process id"),
        (("٣",), "٣: give a process id"),
        (("999999999",), "999999999: no such process"),
        (("12", "--", "python"), "12: give a process id, or a command behind --"),
        (("--seconds", "0", "12"), "--seconds: 0: must be a number of seconds above 0"),
        (("--seconds", "3", "--", "python"), "--seconds: only with a process id"),
        (("--colour", "--", "python"), "unrecognized arguments: --colour"),
    ],
)
def test_a_mistake_is_one_sentence(refusal, options, message):
    assert message in refusal(main, [*options])


def test_what_cannot_be_watched_is_one_sentence(refusal, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            said = refusal(main, [str(process.pid)])
            assert f"{process.pid}: sleep is not a Python program" in said
        finally:
            process.kill()
    monkeypatch.setattr(watching.os, "getuid", lambda: os.geteuid() + 1)
    assert "another user's process; only your own" in refusal(main, [str(os.getpid())])

"""Shared by the tests: how to run the project's commands, and one measured tiny ladder."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from common.accelerator import device
from common.accelerator.device import describe
from common.cli import run as runner
from common.engine import children
from common.engine.climb import Climb
from common.engine.errors import exit_on_user_error
from common.engine.ladder import Ladder
from common.engine.measure import measure
from common.gpt.shape import Shape
from common.workloads.train.session import TrainSession
from tests import side_by_side
from tests.side_by_side import Machine
from tests.unwatched import WITHOUT_CEILINGS, by_nobody, no_ceilings

PROJECT = Path(__file__).resolve().parent.parent
SMALL = Shape(layers=2, heads=2, emb_dim=32, context=16, vocab_size=509)  # 509 is prime: it pads
STEPS_RUN = ("-m", "tests.unwatched", "steps.run")
SHORT_RUN = ("-m", "tests.unwatched", WITHOUT_CEILINGS, "steps.run")
MACHINE = pytest.StashKey[Machine]()
FOLDER = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_xdist_auto_num_workers(config) -> int:
    return min(len(side_by_side.processors()), side_by_side.MOST)


def pytest_configure(config) -> None:
    """Of one of several pytest processes: keep to its share of the processors."""
    # threads that wait for each other sleep; by default they spin, and the others wait for them
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if told := getattr(config, "workerinput", None):
        everything, number = side_by_side.processors(), int(told["workerid"].removeprefix("gw"))
        own = side_by_side.share(everything, number, told["workercount"])
        config.stash[MACHINE] = Machine(everything, own)
        torch.set_num_threads(torch.get_num_threads())  # for all: how they sum up is tested, too
        side_by_side.keep_to(own)


def pytest_configure_node(node) -> None:
    node.workerinput["groups"] = str(groups_path(node.config))


def pytest_collection_modifyitems(config, items) -> None:
    groups = side_by_side.group(items)
    if told := getattr(config, "workerinput", None):
        side_by_side.write_groups(Path(told["groups"]), groups)


def pytest_xdist_make_scheduler(config, log) -> side_by_side.Groups:
    return side_by_side.Groups(config, log, groups_path(config))


def groups_path(config) -> Path:
    """Where the processes write the groups of the tests, for the one that hands them out."""
    if FOLDER not in config.stash:
        config.stash[FOLDER] = tempfile.TemporaryDirectory(prefix="ladder-tests-")
        config.add_cleanup(config.stash[FOLDER].cleanup)
    return Path(config.stash[FOLDER].name) / "groups.json"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with contextlib.ExitStack() as stack:
        if machine := item.config.stash.get(MACHINE, None):
            stack.enter_context(machine.part())
        return (yield)


@contextlib.contextmanager
def short_climb(ceilings: bool = False) -> Iterator[None]:
    """A climb within it is as a SHORT_RUN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "cpu_disturbance", by_nobody)
        if not ceilings:
            patch.setattr(Climb, "measure_ceilings", no_ceilings)
        yield


def climb(*options: str, ceilings: bool = False, **environment: str) -> subprocess.CompletedProcess:
    """`run(*SHORT_RUN, …)` without a process of its own: what it imports, three seconds, is here.

    What it measures are processes, as always.
    """
    said, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
        short_climb(ceilings),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        status = runner.main([*options])
    return subprocess.CompletedProcess(options, status, said.getvalue(), errors.getvalue())


@contextlib.contextmanager
def bfloat16_emulated() -> Iterator[None]:
    """What this process asks of the CPU, it is told, has bfloat16: slow without, and no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_cpu_has_bf16", lambda: True)
        yield


@pytest.fixture(scope="session")
def whole_machine(request) -> Callable[[], AbstractContextManager]:
    """`with whole_machine():` no other test runs, and all processors are there.

    For what processes do side by side, and what is forecast of it.
    """
    machine = request.config.stash.get(MACHINE, None)
    return machine.whole if machine else contextlib.nullcontext


def run(*command: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run a python command line in the project's folder."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def at_work() -> list[psutil.Process]:
    """The processes that measure for these tests; their cache tells them from others' here."""
    return [
        child
        for child in psutil.process_iter(["cmdline", "environ"])
        if "common.engine.child" in (child.info["cmdline"] or ())
        and (child.info["environ"] or {}).get("LADDER_CACHE") == os.environ["LADDER_CACHE"]
    ]


@pytest.fixture
def refusal(capsys):
    """Call a command's main with what it must refuse: gives its one line on stderr.

    As the command's own last lines call it, but here: a process of its own, which imports torch
    for two seconds, would say the same.
    """

    def refuse(main: Callable, *arguments) -> str:
        with pytest.raises(SystemExit) as ended, exit_on_user_error():
            main(*arguments)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert len(said.splitlines()) == 1
        return said

    return refuse


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory):
    """No test reads or fills the user's cache."""
    os.environ["LADDER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_ladder(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The whole ladder at the tiny preset, measured once, compiled for real, for all threads."""
    out = tmp_path_factory.mktemp("ladder")
    fixed = ("--preset", "tiny", "--device", "cpu", "--rounds", "1")
    command = (*STEPS_RUN, *fixed, "--json", "--out", str(out))
    threads = str(torch.get_num_threads())
    # a minute and a half, where nothing else runs
    return out, run(*command, timeout=600, OMP_NUM_THREADS=threads)


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> dict[int, str]:
    """The losses of one process at four windows a step, which several that share them must show."""
    from tests.test_distributed import finish, losses, torchrun  # it imports this file

    folder = tmp_path_factory.mktemp("alone")
    done = finish(torchrun(folder, "--max-steps", "8", "--batch-size", "4", processes=1))
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert len(found) == 8
    return found


def not_on_this_cpu(ladder: Ladder, recipe) -> set[int]:
    """The rungs that a real climb skips here: what a CPU has is not the same everywhere."""
    numbers = {rung.number for rung in ladder.rungs}
    return numbers - {*ladder.applicable(ladder.stair, recipe, describe("cpu"))}


def measured(recipe, settings, probe=lambda run: {}, tell=lambda phase: None, **spoilt):
    """The measurement of a training recipe, in this process; `spoilt`: methods put in place."""

    def build() -> TrainSession:
        kind = type("Spoilt", (TrainSession,), spoilt)
        return kind(recipe, settings, torch.device(settings.device))

    return SimpleNamespace(**measure(build, settings, probe, tell))


def fake_record(rung: int, turn: int, rate: float, **changes) -> dict:
    """A record as the runner writes it, of a rung that made `rate` tokens per second."""
    applied = changes.pop("applied", list(range(1, rung + 1)))
    recipe = {"batch_size": 2, "dropout": 0.0, "dtype": "torch.float32"}
    record = {
        "schema": 1,
        "run_id": "made-up",
        "date": "2026-01-01",
        "ladder": "steps",
        "series": "ladder",
        "preset": "tiny",
        "command": "python -m steps.run",
        "baseline": recipe,
        "settings": {"shape": asdict(SMALL), "device": "cpu", "steps": 3, "warmup": 2},
        "machine": {"device_type": "cpu", "device": "Made-up CPU", "threads": 2},
        "versions": {"torch": "2.13.0"},
        "commit": "0" * 40,
        "dirty": False,
        "changes": "",
        "rung": rung,
        "round": turn,
        "name": f"rung {rung}" if rung else "baseline",
        "status": "ok",
        "reason": "",
        "note": "",
        "applied": applied,
        "recipe": recipe,
        "searched": False,
        "format": "float32",
        "numerics": "rounding",
        "flops_per_token": 1000,
        "peak_flops": None,
        "ceilings": {},
        "discarded": [],
        "equivalence": {},
        "window": {},
        "wall_s": 1.0,
        "measurement": {
            "step_s": [32 / rate] * 3,
            "window_s": 96 / rate,
            "first_step_s": 1.0,
            "data_wait_s": 0.0,
            "losses": [6.0, 5.5, 5.0, 4.5, 4.0],
            "tokens_per_step": 32,
            "peak_reserved_gib": 1.0,
            "peak_allocated_gib": None,
            "text_sha256": "0" * 64,
            "text_source": "made up",
            "in_effect": {str(rung): "yes"},
            "startup_s": 1.0,
        },
    }
    return record | changes


def fake_ladder(rates: dict[int, list[float]], **changes) -> list[dict]:
    """Records of a ladder: the rates of each rung, one per round."""
    return [
        fake_record(rung, turn, rate, **changes)
        for rung, values in rates.items()
        for turn, rate in enumerate(values, start=1)
    ]


def write_records(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def width(said: str) -> int:
    """Of the widest line that is to be read; commands and paths are to be copied."""
    lines = said.splitlines()
    return max(len(line) for line in lines if not line.startswith(("  python", "Open ", "{")))


def last_json(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])

"""Many processes: they agree with one, survive a kill, and end with a sentence when one is lost."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from common.scripts.position import read
from common.workloads.parallel.processes import bind_device
from tests.conftest import PROJECT

# eager: what is tested here is how processes work together, and compiling takes longer than that
EAGER = os.environ | {"CXX": "/no/such/compiler", "OMP_NUM_THREADS": "1"}
TINY = ("--preset", "tiny", "--device", "cpu", "--eval-every", "1")
# torchrun, which asks a silent process to end and kills it after 3 s; no option shortens its 30
IMPATIENT = (
    "import torch.distributed.elastic.multiprocessing.api as api, torch.distributed.run as run\n"
    "api.PContext.close.__defaults__ = (None, 3)\n"
    "run.main()\n"
)
LINE = re.compile(r"^Ep \d+, Step (\d+), (Train: \S+ Val: \S+) Step tok", re.MULTILINE)


def torchrun(folder: Path, *options: str, processes: int = 2, launcher: tuple = ()) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *launcher]
    if not launcher:
        command += ["--standalone"]
    command += [f"--nproc_per_node={processes}", "02_opt_multi_gpu_ddp.py", *TINY, *options]
    return [*command, "--plot", str(folder / "loss.png"), "--record", str(folder / "ddp.jsonl")]


def finish(command: list[str], **environment: str | None) -> subprocess.CompletedProcess:
    """`environment`: beside EAGER's; None: not set."""
    found = {name: value for name, value in (EAGER | environment).items() if value is not None}
    return subprocess.run(
        command, cwd=PROJECT, env=found, capture_output=True, text=True, timeout=180
    )


def losses(stdout: str) -> dict[int, str]:
    """The losses printed for each step; of a repeated step, the last."""
    return {int(step): loss for step, loss in LINE.findall(stdout)}


def workers_of(launcher: subprocess.Popen) -> dict[int, psutil.Process]:
    """torchrun's worker processes by rank."""
    found = {}
    for child in psutil.Process(launcher.pid).children(recursive=True):
        try:
            if "02_opt_multi_gpu_ddp.py" in child.cmdline():
                found[int(child.environ()["RANK"])] = child
        except (psutil.Error, KeyError):
            continue
    return found


def start(command: list[str], log: Path) -> subprocess.Popen:
    with log.open("w") as file:
        return subprocess.Popen(
            command, cwd=PROJECT, env=EAGER, stdout=file, stderr=subprocess.STDOUT, text=True
        )


def wait_for_step(log: Path, step: int, launcher: subprocess.Popen) -> None:
    def reached() -> bool:
        assert launcher.poll() is None, log.read_text()
        return max(losses(log.read_text()), default=-1) >= step

    wait_until(reached)


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, str]:
    """20 undisturbed steps of two processes, which the tests compare with and go on from.

    Gives the folder, with the record and the checkpoints of steps 18 and 20, and what was printed.
    """
    folder = tmp_path_factory.mktemp("pair")
    saving = ("--checkpoint", str(folder / "checkpoints"), "--checkpoint-every", "6")
    done = finish(torchrun(folder, "--batch-size", "2", "--max-steps", "20", *saving))
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step-000018", "step-000020"]
    return folder, done.stdout


def assert_alike(together: dict[int, str], alone: dict[int, str]) -> None:
    """Every loss that one process printed is about the several processes' own."""
    for step, loss in alone.items():
        a, b = ([float(n) for n in re.findall(r"\d+\.\d+", x)] for x in (together[step], loss))
        assert a == pytest.approx(b, abs=0.01)  # bfloat16 gradients, summed in another order


def test_two_processes_agree_with_one_on_the_same_tokens(pair, alone):
    assert_alike(losses(pair[1]), alone)
    assert re.search(r"All-reduce between 2 process\(es\) \(gloo\): .* ms, .* GB/s", pair[1])


def test_efficiency_is_against_a_measured_single_process(pair, tmp_path):
    assert "Scaling efficiency: not measured; run it with --nproc_per_node=1" in pair[1]
    shutil.copy(pair[0] / "ddp.jsonl", tmp_path)
    options = ("--max-steps", "6", "--batch-size", "2")
    # as launch/README.md types them: torchrun then sets the threads of several processes only
    finish(torchrun(tmp_path, *options, processes=1), OMP_NUM_THREADS=None)
    second = finish(torchrun(tmp_path, *options, "--bucket-mib", "1"), OMP_NUM_THREADS=None)
    assert re.search(r"Scaling efficiency: \d+\.\d% of 2 x \d+ tok/sec \(1 process", second.stdout)
    rows = [json.loads(line) for line in (tmp_path / "ddp.jsonl").read_text().splitlines()]
    assert [row["processes"] for row in rows] == [2, 1, 2]
    assert [row["bucket_mib"] for row in rows] == [25, 25, 1]
    assert rows[0]["link"]["gb_per_s"] > 0


def test_a_killed_process_restarts_the_job_and_no_loss_changes(pair, tmp_path):
    options = ("--batch-size", "2", "--max-steps", "20")
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    saving = ("--checkpoint", str(folder), "--checkpoint-every", "5")
    elastic = ("--standalone", "--max-restarts=2")
    launcher = start(torchrun(tmp_path, *options, *saving, launcher=elastic), log)
    wait_for_step(log, random.Random().randint(6, 14), launcher)
    workers_of(launcher)[1].kill()
    assert launcher.wait(120) == 0, log.read_text()
    said = log.read_text()
    assert "going on from" in said
    assert losses(said) == losses(pair[1])
    assert len(list(folder.iterdir())) == 2  # the last two, and nothing half-written


@pytest.fixture
def saved(pair, tmp_path) -> Path:
    """A folder of the test's own with the checkpoints of steps 18 and 20."""
    return shutil.copytree(pair[0] / "checkpoints", tmp_path / "checkpoints")


def test_a_torn_checkpoint_is_passed_over_by_all(saved, tmp_path):
    part = max((saved / "step-000020").glob("*.distcp"), key=lambda path: path.stat().st_size)
    os.truncate(part, part.stat().st_size // 2)
    more = ("--checkpoint", str(saved), "--max-steps", "20", "--batch-size", "2")
    done = finish(torchrun(tmp_path, *more))
    assert done.returncode == 0, done.stderr
    assert "step-000020 is not whole; going back to the one before it" in done.stdout
    assert min(losses(done.stdout)) == 18
    assert read(saved / "step-000020")


def test_a_process_that_falls_silent_ends_in_a_sentence_and_leaves_no_orphan(tmp_path):
    log = tmp_path / "log"
    options = ("--batch-size", "2", "--epochs", "50", "--ddp-timeout", "5")
    command = torchrun(tmp_path, *options)
    command[1:3] = ["-c", IMPATIENT]
    launcher = start(command, log)
    wait_for_step(log, 3, launcher)
    workers = workers_of(launcher)
    workers[1].send_signal(signal.SIGSTOP)  # alive, and silent
    begin = time.monotonic()
    assert launcher.wait(90) != 0
    assert time.monotonic() - begin < 30
    said = log.read_text()
    assert "error: rank 0: another process did not answer within --ddp-timeout 5 s" in said
    _, alive = psutil.wait_procs(workers.values(), timeout=10)
    assert alive == []


def test_a_search_waits_for_the_first_process_as_long_as_it_lives(tmp_path):
    log = tmp_path / "log"
    launcher = start(torchrun(tmp_path, "--ddp-timeout", "2"), log)
    wait_until(lambda: "trying batch 4" in log.read_text())  # so the first try took some seconds
    assert launcher.poll() is None
    workers = workers_of(launcher)
    workers[0].suspend()
    wait_until(lambda: "error: rank 1: another process did not answer within" in log.read_text())
    workers[0].kill()  # torchrun would only ask it to end
    assert launcher.wait(60) != 0
    assert "the search ended" not in log.read_text()


@pytest.fixture
def taken() -> Iterator[str]:
    """A port of a program that answers nobody."""
    with socket.create_server(("", 0)) as server:
        yield str(server.getsockname()[1])


def by_hand(folder: Path, rank: int, port: str) -> subprocess.CompletedProcess:
    """One of two processes, without torchrun."""
    names = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}
    command = torchrun(folder, "--batch-size", "1", "--ddp-timeout", "2")
    script = [sys.executable, *command[command.index("02_opt_multi_gpu_ddp.py") :]]
    return finish(script, **{k: str(v) for k, v in names.items()}, MASTER_PORT=port)


def left_behind(folder: Path) -> list[list[str]]:
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(folder / "ddp.jsonl") in line]


@pytest.mark.parametrize(("rank", "sentence"), [
    (0, "MASTER_PORT {}: in use by another program; give a free one"),
    (1, "rank 1: another process did not answer within --ddp-timeout 2 s or is gone "
        "(no store answers at localhost:{})"),
])  # fmt: skip
def test_a_port_in_use_is_a_sentence(tmp_path, taken, rank, sentence):
    done = by_hand(tmp_path, rank, taken)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {sentence.format(taken)}"


def test_a_process_that_never_comes_is_a_sentence(tmp_path, taken):
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
    done = by_hand(tmp_path, 0, port)
    assert done.returncode == 2
    assert "error: rank 0: another process did not answer within --ddp-timeout 2 s" in done.stderr


@pytest.mark.parametrize("trouble", ["a port in use", "a machine that never comes"])
def test_where_torchrun_itself_gives_up_nothing_is_left_behind(tmp_path, taken, trouble):
    launcher = {
        "a port in use": (f"--master-port={taken}",),
        "a machine that never comes": (
            *("--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
            "--rdzv-conf=join_timeout=3",
        ),
    }[trouble]
    done = finish(torchrun(tmp_path, launcher=launcher))
    assert done.returncode != 0
    assert ("EADDRINUSE" in done.stderr) == (trouble == "a port in use")
    assert left_behind(tmp_path) == []


def test_more_processes_than_devices_is_a_sentence(monkeypatch, refusal):
    monkeypatch.setenv("LOCAL_RANK", "4")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    expected = "error: --nproc_per_node: more than the 2 cuda device(s) here\n"
    assert refusal(bind_device, "cuda") == expected

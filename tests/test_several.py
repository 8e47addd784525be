"""What several processes owe each other: one folder, patience, the true cause, an end together."""

import signal
import sys
from argparse import Namespace
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from common.engine.errors import OtherLost, UserError
from common.scripts.distributed import Torchrun, rows, summarise
from common.scripts.position import read
from common.workloads.parallel.processes import about_others, joined
from tests.test_distributed import (
    finish,
    losses,
    start,
    torchrun,
    wait_for_step,
    workers_of,
)
from tests.test_going_on import Place, place  # noqa: F401

S2 = ("--layers", "1", "--heads", "2", "--emb-dim", "8", "--context", "8", "--batch-size", "2")
SLOW_S, PATIENCE_S = 6, 4
# 02, whose first process takes longer to write than the others wait for it at a step
SLOW = f"""
import os, runpy, sys, time
import torch.distributed.checkpoint as dcp
save = dcp.save
def slow(*arguments, **named):
    time.sleep({SLOW_S} * (os.environ["RANK"] == "0"))
    return save(*arguments, **named)
dcp.save = slow
sys.argv[0] = "02_opt_multi_gpu_ddp.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def small(folder: Path, *options: str, program: tuple[str, ...] = ()) -> list[str]:
    """02 by two processes; `program`: what starts it in each, if not Python."""
    command = torchrun(folder, *S2, *options)
    at = command.index("02_opt_multi_gpu_ddp.py")
    return [*command[:at], "--no-python", *program, *command[at + 1 :]] if program else command


@pytest.fixture(scope="module")
def slow_pair(tmp_path_factory) -> tuple[Path, str]:
    """Three steps of two processes with dropout, and a slow checkpoint of them."""
    folder = tmp_path_factory.mktemp("slow")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 20)
    done = finish(small(
        folder, "--text", str(text), "--dropout", "0.3", "--max-steps", "3",
        "--save", str(folder / "together.pt"), "--ddp-timeout", str(PATIENCE_S),
        "--checkpoint", str(folder / "checkpoints"),
        program=(sys.executable, "-c", SLOW),
    ))  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_save_may_take_longer_than_a_step_may(slow_pair):
    folder, _ = slow_pair
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000003"]
    found = read(folder / "checkpoints" / "step-000003")
    assert (found.processes, found.batch_size, found.position.batches) == (2, 2, 3)


def test_dropout_differs_by_process(slow_pair):
    random = {f"random.cpu_{rank}": torch.get_rng_state() for rank in (0, 1)}
    dcp.load(random, checkpoint_id=str(slow_pair[0] / "checkpoints" / "step-000003"))
    assert not torch.equal(*random.values())


def test_another_number_of_processes_goes_on(slow_pair, place):  # noqa: F811
    """Two processes at batch 2 for three steps, then one, which has six of its own done."""
    folder, _ = slow_pair
    place.folder, place.saved = folder, folder / "checkpoints"
    place.monkeypatch.setenv("CXX", "/no/such/compiler")
    more = ("--dropout", "0.3", *S2[:-2], "--save", folder / "alone.pt")
    nothing = place.train("--max-steps", "3", *more, name="02_opt_multi_gpu_ddp", batch=0)
    assert "nothing to do" in nothing
    together, alone = (weights(folder / name) for name in ("together.pt", "alone.pt"))
    assert all(torch.equal(together[name], alone[name]) for name in together)
    said = place.train("--max-steps", "5", *more, name="02_opt_multi_gpu_ddp", batch=0)
    assert "a step had 4 window(s) (2 process(es)), and has 2 now (1)" in said
    assert [*losses(said)] == [3, 4]
    assert (place.position(5)["batches"], place.position(5)["processes"]) == (8, 1)
    assert [step for step, *_ in place.position(5)["history"]] == [0, 1, 2, 3, 4]
    count = {"optimizer.state.head.weight.step": torch.zeros(())}
    dcp.load(count, checkpoint_id=str(place.saved / "step-000005"))
    assert count.popitem()[1] == 5  # the optimizer's own: it went on, too


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_a_folder_that_is_not_shared_is_one_sentence_at_the_start(tmp_path):
    line = f'exec {sys.executable} 02_opt_multi_gpu_ddp.py "$@" --checkpoint {tmp_path}/ck-$RANK'
    done = finish(small(tmp_path, "--max-steps", "1", program=("sh", "-c", line, "sh")))
    assert done.returncode != 0
    said = f"--checkpoint {tmp_path}/ck-0: what rank 0 writes there is not seen by rank 1; give"
    assert said in done.stderr
    assert "did not answer" not in done.stderr
    assert losses(done.stdout) == {}
    assert list((tmp_path / "ck-0").iterdir()) == []


def test_the_workers_end_with_a_torchrun_that_is_killed(tmp_path):
    log = tmp_path / "log"
    saving = ("--checkpoint", str(tmp_path / "checkpoints"), "--epochs", "50")
    launcher = start(small(tmp_path, *saving), log)
    wait_for_step(log, 1, launcher)
    workers = workers_of(launcher)
    assert len(workers) == 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    _, alive = psutil.wait_procs(workers.values(), timeout=8)
    for worker in alive:
        worker.kill()
    assert alive == []
    assert "torchrun, which started this process, is gone" in log.read_text()


# -- what an error is about --

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, {}\nLast error:\n{}"
SYSTEM = "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9"


@pytest.mark.parametrize(("error", "others"), [
    (RuntimeError(GLOO + "unbound_buffer.cc:81] Timed out waiting 5000ms for recv"), True),
    (RuntimeError(GLOO + "pair.cc:547] Connection closed by peer [127.0.0.1]:26551"), True),
    (RuntimeError("[enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:454] "
                  "op.preamble.length <= op.nbytes. 40 vs 20"), False),
    (dist.DistNetworkError("Connection reset by peer"), True),
    (dist.DistStoreError("wait timeout after 3000ms, keys: /default_pg/0"), True),
    (dist.DistBackendError(NCCL.format("remote process exited or there was a network error\n"
     "ncclRemoteError: A call failed possibly due to a network error", "")), True),
    (dist.DistBackendError(NCCL.format(SYSTEM + "\nncclSystemError: System call (e.g. socket, "
     "malloc) failed", "socketPollConnect: Connect to 10.0.0.2<39547> returned 111")), True),
    (dist.DistBackendError(NCCL.format(SYSTEM + "\nncclSystemError: System call (e.g. socket, "
     "malloc) failed", "Error while creating shared memory segment /dev/shm/nccl-x")), False),
    (dist.DistBackendError(NCCL.format("invalid usage\nncclInvalidUsage", "Duplicate GPU")),
     False),
    (RuntimeError("tensor stored in b: no peer, connection timed out, socket store"), False),
    (RuntimeError("expected a broken pipe, NCCL, and a timeout"), False),
    (ValueError("store"), False),
])  # fmt: skip
def test_only_errors_about_other_processes_are_told_as_such(error, others):
    assert about_others(error) == others


@pytest.fixture
def by_itself(monkeypatch):
    """The surroundings of one process that torchrun started."""
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost"}
    for name, value in (names | {"MASTER_PORT": 0}).items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_an_error_of_ones_own_keeps_its_name_and_text(by_itself):
    with pytest.raises(RuntimeError, match="tensor stored in b") as raised, joined("cpu", 5.0):
        raise RuntimeError("the tensor stored in b is too short")
    assert not isinstance(raised.value, UserError)


def test_of_a_lost_process_the_log_has_the_whole_text(by_itself, capsys):
    whole = GLOO + "pair.cc:547] Connection closed by peer\nLast error: link 7 is down"
    with pytest.raises(OtherLost, match="rank 0: another process did not"), joined("cpu", 5.0):
        raise RuntimeError(whole)
    assert f"RuntimeError: {whole}\n" in capsys.readouterr().err


# -- what is measured --


@pytest.mark.parametrize(("given", "expected"), [(None, 1), ("2", 2)])
def test_one_process_has_the_threads_of_each_of_several(by_itself, monkeypatch, given, expected):
    """torchrun gives each of several one; the user's own number stands."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    options = Namespace(ddp_timeout=5.0, bucket_mib=25, static_graph=False, record=None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Torchrun().join("cpu", options) as world:
            assert torch.get_num_threads() == expected
            assert world.from_all("x") == ["x"]
            with pytest.raises(UserError, match="not today"):
                world.from_first(refuse)
    finally:
        torch.set_num_threads(before)


def refuse():
    raise UserError("not today")


def test_a_row_without_a_rate_or_of_another_make_is_no_base(tmp_path):
    same = {"device": "x", "shape": {}, "recipe": {"batch_size": 2}, "threads": 1, "torch": "2"}
    row = same | {"date": "2026-01-01"}
    path = tmp_path / "ddp.jsonl"
    assert summarise(row | {"processes": 1, "tok_per_s": 0.0}, path) == []
    path.write_text('[]\n{"processes": 1}\n{"processes": 1, "tok_per_s": 0.0, \n"x"\n')
    said = summarise(row | {"processes": 2, "tok_per_s": 90.0}, path)
    assert said == [
        "Scaling efficiency: not measured; run it with --nproc_per_node=1 first "
        "(OMP_NUM_THREADS=1, --batch-size 2)"
    ]
    summarise(row | {"processes": 1, "tok_per_s": 50.0}, path)
    assert "90.0% of 2 x 50" in summarise(row | {"processes": 2, "tok_per_s": 90.0}, path)[0]
    assert len([*rows(path)]) == 4

"""Processes that torchrun started: how they find each other, and what their link can do."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from common.engine.errors import OtherLost, UserError, end_now, out_of_memory

PREFLIGHT_MIB, PREFLIGHT_REPEATS = 16, 5
ORPHAN_S = 0.5  # how often a process looks whether its parent is still there
BACKENDS = {"cuda": "nccl", "xpu": "xccl"}


@contextmanager
def joined(device_type: str, timeout_s: float, option: str = "") -> Iterator[torch.device]:
    """Join torchrun's processes, on this process's own device, and leave them cleanly.

    Raises OtherLost, which names the rank, where another process does not answer in time; `option`
    is what sets the time.
    """
    rank, timeout = int(os.environ["RANK"]), timedelta(seconds=timeout_s)
    device = bind_device(device_type)

    def lost(reason: str) -> OtherLost:
        return OtherLost(
            f"rank {rank}: another process did not answer within {option}{timeout_s:g} s "
            f"or is gone ({reason})"
        )

    end_with_torchrun()
    try:
        where = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
        # torch itself gives up after the time-out and a pause, but for one case: see ended_after
        with ended_after(2 * timeout_s, lost(f"no store answers at {where}")):
            store, rank, size = fresh_store(timeout)
        dist.init_process_group(
            BACKENDS.get(device_type, "gloo"),
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
        yield device
    except (RuntimeError, dist.DistError) as error:
        if out_of_memory(error) or not about_others(error):
            raise
        whole = str(error).strip()
        sys.stderr.write(f"rank {rank}: {type(error).__name__}: {whole}\n")
        raise lost(whole.splitlines()[0][:120]) from error
    else:  # only then: with answers outstanding, gloo can crash here, before the error is told
        dist.destroy_process_group()


def end_with_torchrun() -> None:
    """End this process when the torchrun that started it is gone, however that ended.

    Its workers would train on, and write checkpoints beside those of the job's next start.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=watch_parent, args=(os.getppid(),), daemon=True).start()


def watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    end_now(OtherLost("torchrun, which started this process, is gone"))


@contextmanager
def ended_after(seconds: float, error: OtherLost) -> Iterator[None]:
    """End this process with the error if the block takes longer.

    A store's client waits for ever for a program that is no store and never answers (torch 2.13).
    """
    timer = threading.Timer(seconds, end_now, [error])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def fresh_store(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The key-value store that torchrun gives the processes to find each other; rank; world size.

    torchrun keeps one store over its restarts, so a restarted process could read the address of one
    that is dead, and then waits for it. On one machine all processes know the number of the restart
    and keep to keys of their own. Agents on several machines count restarts differently: there
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes torchrun open a new store each time (launch/).
    """
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        port = os.environ["MASTER_PORT"]
        raise UserError(
            f"MASTER_PORT {port}: in use by another program; give a free one"
        ) from error
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return store, rank, size


def bind_device(device_type: str) -> torch.device:
    """This process's own device. Raises UserError if there are fewer devices than processes."""
    if device_type == "cpu":
        return torch.device("cpu")
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
    if local_rank >= count:
        raise UserError(f"--nproc_per_node: more than the {count} {device_type} device(s) here")
    torch.accelerator.set_device_index(local_rank)
    return torch.device(device_type, local_rank)


# gloo's errors in waiting, reading, and writing; its failed checks begin with "[enforce fail at"
GLOO = re.compile(r"\[(?!enforce fail)\S*gloo/transport/\S+:\d+\]")
# what NCCL's and c10d's one type of error says where a peer is to blame: NCCL's result code, its
# socket code's names (Last error), torch's watchdog and communicator set-up
NCCL = re.compile(
    r"ncclRemoteError|Last error:\s*(socket\w+: |Call to \w+ (to|from) |NET/\w+ ?: Got completion)"
    r"|Watchdog caught collective operation timeout|communicator was aborted"
    r"|ncclUniqueId from \[\d+\] via c10d key-value store"
)


def about_others(error: Exception) -> bool:
    """Whether an error says that another process is late or gone.

    By its type, where torch has one for that, or by who raised it; never by words that an error of
    this process may use as well.
    """
    if isinstance(error, dist.DistBackendError):
        return bool(NCCL.search(str(error)) or GLOO.search(str(error)))
    return isinstance(error, dist.DistError) or bool(GLOO.search(str(error)))


def preflight(device: torch.device) -> dict[str, float]:
    """What an all-reduce costs before training begins: milliseconds for one number, and GB/s.

    GB/s is the rate of each link of a ring, 2 (n - 1) / n bytes sent per byte reduced, as NVIDIA's
    nccl-tests count it (doc/PERFORMANCE.md there). The first call connects and is not timed.
    """
    size = dist.get_world_size()
    small = torch.ones(1, device=device)
    large = torch.ones(PREFLIGHT_MIB * 2**18, device=device)  # float32
    times = {}
    for name, tensor in (("small", small), ("large", large)):
        dist.all_reduce(tensor)
        tensor[0].item()  # waits for the device
        begin = time.perf_counter()
        for _ in range(PREFLIGHT_REPEATS):
            dist.all_reduce(tensor)
        tensor[0].item()
        times[name] = (time.perf_counter() - begin) / PREFLIGHT_REPEATS
    sent = 2 * (size - 1) / size * PREFLIGHT_MIB * 2**20
    return {"latency_ms": 1e3 * times["small"], "gb_per_s": sent / times["large"] / 1e9}

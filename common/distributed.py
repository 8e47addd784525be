"""Training on several devices: one process each, started by torchrun."""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.device import out_of_memory
from common.engine.errors import OtherLost, UserError, end_now
from common.engine.records import append_line
from common.options import seconds, whole
from common.world import World

HEADROOM_GIB = 1.5  # for NCCL's buffers and DDP's gradient buckets beside the model
NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them
SEARCHING = -1  # what the first process tells the others while it searches for a number
PREFLIGHT_MIB, PREFLIGHT_REPEATS = 16, 5
SAME = ("device", "shape", "recipe", "threads", "torch")  # what an efficiency needs to be the same


class Torchrun:
    """The processes that torchrun started."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("several processes").add_argument
        wait = "how long one process waits for the others; default: 60"
        add("--ddp-timeout", type=seconds, default=60.0, metavar="SECONDS", help=wait)
        bucket = "gradients are sent in buckets of this size; default: 25"
        add("--bucket-mib", type=whole(1), default=25, metavar="N", help=bucket)
        graph = "tell DDP that every step uses the same parameters"
        add("--static-graph", action="store_true", help=graph)
        rows = Path("results/ddp.jsonl")
        add("--record", type=Path, default=rows, metavar="FILE", help=f"default: {rows}")

    @contextmanager
    def join(self, device_type: str, options: argparse.Namespace) -> Iterator[World]:
        """Join the processes and leave them cleanly.

        Raises UserError where torchrun did not start this process, a device is missing, or another
        process does not answer in time.
        """
        if missing := [name for name in NEEDED if name not in os.environ]:
            raise UserError(
                "this script is started by torchrun: torchrun --nproc_per_node=4 "
                "02_opt_multi_gpu_ddp.py (one process per device); without it, not set: "
                + ", ".join(missing)
            )
        with joined(device_type, options.ddp_timeout, "--ddp-timeout ") as device:
            yield make_world(device, options)


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
        raise lost(str(error).strip().splitlines()[0][:120]) from error
    else:  # only then: with answers outstanding, gloo can crash here, before the error is told
        dist.destroy_process_group()


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


def about_others(error: Exception) -> bool:
    """Whether an error says that another process is late or gone; gloo and NCCL say it in words."""
    words = ("timed out", "timeout", "connection", "peer", "store", "nccl", "socket", "broken pipe")
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in words)


def make_world(device: torch.device, options: argparse.Namespace) -> World:
    rank, size = dist.get_rank(), dist.get_world_size()
    link = preflight(device)

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(
            model,
            device_ids=None if device.type == "cpu" else [device.index],
            bucket_cap_mb=options.bucket_mib,
            gradient_as_bucket_view=True,  # gradients live in the buckets: no second copy
            static_graph=options.static_graph,
        )

    def reduced(value: float, operation) -> float:
        tensor = torch.tensor(value, device=device, dtype=torch.float32)
        dist.all_reduce(tensor, operation)
        return tensor.item()

    waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=options.ddp_timeout))

    def from_first(find: Callable[[], int]) -> int:
        def tell(value: int) -> int:
            tensor = torch.tensor(value)
            dist.broadcast(tensor, src=0, group=waiting)
            return int(tensor.item())

        if rank == 0:
            with repeated(lambda: tell(SEARCHING), options.ddp_timeout / 3):
                found = find()
            return tell(found)
        while (found := tell(SEARCHING)) == SEARCHING:
            pass
        return found

    def summary(facts: dict) -> list[str]:
        choices = {"bucket_mib": options.bucket_mib, "static_graph": options.static_graph}
        return summarise(facts | choices | {"processes": size, "link": link}, options.record)

    return World(
        rank=rank,
        size=size,
        local_rank=int(os.environ["LOCAL_RANK"]),
        greeting=(
            f"All-reduce between {size} process(es) ({dist.get_backend()}): "
            f"{link['latency_ms']:.2f} ms, {link['gb_per_s']:.2f} GB/s\n"
        ),
        headroom_gib=HEADROOM_GIB,
        wrap=wrap,
        slowest=lambda value: reduced(value, dist.ReduceOp.MAX),
        mean=lambda value: reduced(value, dist.ReduceOp.SUM) / size,
        from_first=from_first,
        summary=summary,
    )


@contextmanager
def repeated(action: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it again and again in a thread while the block runs, as a sign of life."""
    done = threading.Event()

    def repeat() -> None:
        with suppress(RuntimeError):  # another process is gone: the next collective says so, too
            while not done.wait(every_s):
                action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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


def summarise(row: dict, path: Path) -> list[str]:
    """Keep the row, and say how it scales against one process measured on the same clock."""
    lines = [] if row["processes"] == 1 else [efficiency_line(row, path)]
    append_line(path, row)
    return lines


def efficiency_line(row: dict, path: Path) -> str:
    alone = None
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            other = json.loads(line)
        except json.JSONDecodeError:
            continue  # a half-written line of a killed run
        if other["processes"] == 1 and all(other[key] == row[key] for key in SAME):
            alone = other
    if alone is None:
        return (
            "Scaling efficiency: not measured; run it with --nproc_per_node=1 first "
            f"(OMP_NUM_THREADS={row['threads']}, the same --batch-size)"
        )
    share = row["tok_per_s"] / row["processes"] / alone["tok_per_s"]
    return (
        f"Scaling efficiency: {share:.1%} of {row['processes']} x {alone['tok_per_s']:.0f} tok/sec "
        f"(1 process, {alone['date']})"
    )

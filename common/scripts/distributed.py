"""Training on several devices: one process each, started by torchrun."""

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.engine.errors import UserError
from common.engine.options import seconds, whole
from common.engine.records import append_line
from common.scripts.world import World
from common.workloads.parallel.processes import joined, preflight

HEADROOM_GIB = 1.5  # for NCCL's buffers and DDP's gradient buckets beside the model
NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them
SEARCHING = -1  # what the first process tells the others while it searches for a number
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
        from_first=lambda find: from_first(find, waiting, options.ddp_timeout),
        summary=summary,
    )


def from_first(find: Callable[[], int], group: dist.ProcessGroup, timeout_s: float) -> int:
    """What `find` returns in the first process; the others wait, told again and again that it
    still searches."""

    def tell(value: int) -> int:
        tensor = torch.tensor(value)
        dist.broadcast(tensor, src=0, group=group)
        return int(tensor.item())

    if dist.get_rank() == 0:
        with repeated(lambda: tell(SEARCHING), timeout_s / 3):
            found = find()
        return tell(found)
    while (found := tell(SEARCHING)) == SEARCHING:
        pass
    return found


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

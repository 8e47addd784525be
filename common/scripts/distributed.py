"""Training on several devices: one process each, started by torchrun."""

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from common.engine.errors import UserError
from common.engine.options import seconds, whole
from common.engine.records import append_line
from common.scripts.world import World
from common.workloads.parallel.processes import joined, preflight

HEADROOM_GIB = 1.5  # for NCCL's buffers and DDP's gradient buckets beside the model
NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them
SEARCHING, FOUND, REFUSED = "searching", "found", "refused"  # what the first process tells others
SAVING = default_pg_timeout  # torch's own, half an hour: a large checkpoint, a slow disk
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
        record = Path("results/ddp.jsonl")
        add("--record", type=Path, default=record, metavar="FILE", help=f"default: {record}")

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
        threads_as_of_several()
        with joined(device_type, options.ddp_timeout, "--ddp-timeout ") as device:
            yield make_world(device, options)


def threads_as_of_several() -> None:
    """Give a single process the one thread that torchrun gives each of several.

    torchrun sets OMP_NUM_THREADS=1 only where it starts several (torch 2.13, distributed/run.py):
    on another number of threads no efficiency could be told.
    """
    if os.environ["WORLD_SIZE"] == "1" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def make_world(device: torch.device, options: argparse.Namespace) -> World:
    rank, size = dist.get_rank(), dist.get_world_size()
    link = preflight(device)
    waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=options.ddp_timeout))
    saving = dist.new_group(backend="gloo", timeout=SAVING)

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

    def summary(facts: dict) -> list[str]:
        choices = {"bucket_mib": options.bucket_mib, "static_graph": options.static_graph}
        return summarise(facts | choices | {"processes": size, "link": link}, options.record)

    return World(
        rank=rank,
        size=size,
        local_rank=int(os.environ["LOCAL_RANK"]),
        greeting=(
            f"All-reduce between {size} process(es) ({dist.get_backend()}): "
            f"{link['latency_ms']:.2f} ms, {link['gb_per_s']:.2f} GB/s; "
            f"{torch.get_num_threads()} thread(s) each\n"
        ),
        headroom_gib=HEADROOM_GIB,
        saving=saving,
        wrap=wrap,
        slowest=lambda value: reduced(value, dist.ReduceOp.MAX),
        mean=lambda value: reduced(value, dist.ReduceOp.SUM) / size,
        from_first=lambda find: from_first(find, waiting, options.ddp_timeout),
        from_all=lambda value: from_all(value, saving),
        summary=summary,
    )


def from_first(find: Callable[[], Any], group: dist.ProcessGroup, timeout_s: float) -> Any:
    """What `find` returns in the first process; the others wait, told again and again that it
    still works. A UserError of the first process is one of all."""

    def tell(state: str, value: Any = None) -> tuple[str, Any]:
        told = [(state, value)]
        dist.broadcast_object_list(told, src=0, group=group)
        return told[0]

    state = SEARCHING
    if dist.get_rank() == 0:
        with repeated(lambda: tell(SEARCHING), timeout_s / 3):
            state, value = attempted(find)
        tell(state, value)
    while state == SEARCHING:
        state, value = tell(SEARCHING)
    if state == REFUSED:
        raise UserError(value)
    return value


def attempted(find: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return FOUND, find()
    except UserError as error:
        return REFUSED, str(error)


def from_all(value: Any, group: dist.ProcessGroup) -> list:
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


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
    if not row["tok_per_s"]:
        return []  # one step, which may have compiled, is no rate
    lines = [] if row["processes"] == 1 else [efficiency_line(row, path)]
    append_line(path, row)
    return lines


def efficiency_line(row: dict, path: Path) -> str:
    alone = [other for other in rows(path) if is_alone(other, row)]
    if not alone:
        return (
            "Scaling efficiency: not measured; run it with --nproc_per_node=1 first "
            f"(OMP_NUM_THREADS={row['threads']}, --batch-size {row['recipe']['batch_size']})"
        )
    share = row["tok_per_s"] / row["processes"] / alone[-1]["tok_per_s"]
    return (
        f"Scaling efficiency: {share:.1%} of {row['processes']} x {alone[-1]['tok_per_s']:.0f} "
        f"tok/sec (1 process, {alone[-1]['date']})"
    )


def rows(path: Path) -> Iterator[dict]:
    """What a file of rows holds, without lines that are none: a killed run's half one, say."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def is_alone(other: dict, row: dict) -> bool:
    """Whether it is of one process that did the same as each of the row's."""
    alike = all(other.get(key) == row[key] for key in SAME)
    return alike and other.get("processes") == 1 and (other.get("tok_per_s") or 0) > 0

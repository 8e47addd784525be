"""A process and all that it started, looked at from outside again and again."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from common.engine.processor_time import spent, total

WORKER = "pt_data_worker"  # how torch names a DataLoader's process (_utils/worker.py), on Linux
MOST_GLANCES = 2000  # kept; then every second one goes


class Worker(NamedTuple):
    """A DataLoader's process. Seconds, bytes."""

    cpu_s: float
    wait_s: float  # ready, without a core; 0 where that is not told
    own_bytes: int | None  # USS


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One glance. Seconds; times that grow are since the start of what they are of."""

    at: float  # of the monotonic clock
    cpu_s: float  # of the whole tree, also of what ended
    host: tuple[float, float]  # all cores' time: busy with anything, and in all
    workers: dict[int, Worker]  # by process id
    core_wait: dict[int, float]  # of each other process's main thread: ready, without a core
    spent: dict[int, float] = field(default_factory=dict)  # processor time of each other process


class Tree:
    """Looks at a process tree. Its root may be gone at any time: a glance is then None."""

    def __init__(self, pid: int) -> None:
        self.root, self.glances = psutil.Process(pid), []

    def glance(self) -> Glance | None:
        try:
            processes = [self.root, *self.root.children(recursive=True)]
            times = total(self.root.cpu_times())
        except psutil.Error:
            return None
        times += sum(map(spent, processes[1:]))
        names = {process: name_of(process) for process in processes}
        workers = [process for process in processes if names[process] == WORKER]
        rest = [process for process in processes if process not in workers]
        waits = {one.pid: wait for one in rest if (wait := core_wait_s(one.pid)) is not None}
        glance = Glance(
            at=time.monotonic(),
            cpu_s=times,
            host=host_time(),
            workers={one.pid: worker(one) for one in workers},
            core_wait=waits,
            spent={one.pid: spent(one) for one in rest},
        )
        self.glances.append(glance)
        if len(self.glances) > MOST_GLANCES:
            del self.glances[1::2]
        return glance

    def pids(self) -> set[int]:
        try:
            return {self.root.pid, *(one.pid for one in self.root.children(recursive=True))}
        except psutil.Error:
            return set()

    def within(self, begin: float, end: float) -> list[Glance]:
        return [glance for glance in self.glances if begin <= glance.at <= end]


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def worker(process: psutil.Process) -> Worker:
    return Worker(spent(process), core_wait_s(process.pid) or 0.0, own_bytes(process))


def own_bytes(process: psutil.Process) -> int | None:
    """Memory that would be free if this process ended: pages that it shares are not counted."""
    try:
        return process.memory_full_info().uss
    except (psutil.Error, AttributeError):
        return None


def core_wait_s(pid: int) -> float | None:
    """Seconds that a process's main thread was ready to run and had no core; None: not told.

    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat, second field.
    """
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def host_time() -> tuple[float, float]:
    """Seconds of all cores since the start of the machine: busy, and in all."""
    times = psutil.cpu_times()
    whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return whole - times.idle - getattr(times, "iowait", 0.0), whole

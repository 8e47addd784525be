"""Watches a program until it ends, or another process for a while."""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from common.diagnose import tallies
from common.diagnose.gpu import GpuTimeline, gpu_of, have_open
from common.diagnose.program import Program
from common.diagnose.readings import Readings
from common.diagnose.summary import summarise
from common.diagnose.tree import Tree
from common.engine.errors import UserError
from common.engine.gpu_watch import GpuWatch

SHORTEST_S, LONGEST_S, GLANCES = 0.1, 0.5, 40  # between glances: so many in any time


def watch_command(command: list[str]) -> tuple[Readings, int]:
    """Run a command to its end and watch it: the readings, and its exit status.

    Raises UserError if it cannot be started. Ctrl-C is the program's to answer; what was seen until
    then is kept.
    """
    with tempfile.TemporaryDirectory(prefix="ladder-") as name:
        folder = Path(name).resolve()
        with Program(command, folder) as program:
            watched = Watched(program.pid, folder)
            while not program.ended(watched.pause()):
                try:
                    watched.glance()
                except KeyboardInterrupt:
                    program.interrupt()
        return watched.readings(), program.exit_status


def watch_process(pid: int, seconds: float) -> Readings:
    """Watch a running process from outside for so many seconds, or until it ends, or Ctrl-C.

    Raises UserError if there is none, if it is another user's, or no Python program.
    """
    check(pid)
    watched, end = Watched(pid), time.monotonic() + seconds
    try:
        while watched.glance() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, watched.pause()))
    except KeyboardInterrupt:
        pass
    return watched.readings()


def check(pid: int) -> None:
    """Raises UserError for a process that cannot be watched."""
    try:
        process = psutil.Process(pid)
        names = [one.name() for one in [process, *process.children(recursive=True)]]
        with process.oneshot():
            owner, status = process.uids().real, process.status()
            command = [os.path.basename(part) for part in process.cmdline()[:1]]  # noqa: PTH119
    except (psutil.NoSuchProcess, OverflowError):
        raise UserError(f"{pid}: no such process; ps lists those that there are") from None
    except psutil.AccessDenied:
        raise UserError(f"{pid}: another user's process; only your own can be watched") from None
    if owner != os.getuid() and os.getuid() != 0:
        raise UserError(f"{pid}: another user's process; only your own can be watched")
    if status == psutil.STATUS_ZOMBIE:
        raise UserError(f"{pid}: it has ended; give a process that is running")
    if not any("python" in name.lower() or name.startswith("pt_") for name in names + command):
        raise UserError(
            f"{pid}: {names[0]} is not a Python program; give the process id of a training"
        )


class Watched:
    """A process tree, its GPU, and, where the program carries them, its tallies."""

    def __init__(self, pid: int, folder: Path | None = None) -> None:
        self.pid, self.folder, self.begun = pid, folder, time.monotonic()
        self.tree = Tree(pid)
        self.gpu: GpuTimeline | None = None
        self.gpu_asked, self.on_gpu = float("-inf"), False

    def pause(self) -> float:
        """Seconds until the next glance."""
        passed = time.monotonic() - self.begun
        return min(LONGEST_S, max(SHORTEST_S, passed / GLANCES))

    def glance(self) -> bool:
        """Look once. False: the process is gone."""
        there = self.tree.glance() is not None
        if self.gpu:
            self.gpu.turn()
        elif time.monotonic() - self.gpu_asked > LONGEST_S:
            self.gpu_asked = time.monotonic()
            if watch := self.find_gpu():
                self.gpu = GpuTimeline(self.pid, watch)
        return there

    def find_gpu(self) -> GpuWatch | None:
        """By who has which GPU; else by what torch says in the program."""
        pids = self.tree.pids()
        self.on_gpu = self.on_gpu or have_open(pids)
        if found := gpu_of(pids, self.on_gpu):
            return found
        named = [one for one in self.told() if one.device == "cuda"]
        return GpuWatch("cuda", named[0].name, named[0].index) if named else None

    def told(self) -> list[tallies.Tally]:
        return tallies.read(self.folder) if self.folder else []

    def readings(self) -> Readings:
        if self.gpu:
            self.gpu.stop()
        seen = summarise(self.tree, self.told(), self.gpu, self.on_gpu)
        return replace(seen, inside=self.folder is not None)

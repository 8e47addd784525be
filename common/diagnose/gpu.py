"""How busy an NVIDIA GPU was while a watched program had it, stretch after stretch."""

import time
from dataclasses import dataclass
from pathlib import Path

from common.engine.gpu_watch import GpuWatch

STRETCH_S = 1.0  # so that what came before the first step can be left out

GPU_FILES = tuple(f"/dev/nvidia{number}" for number in range(10))  # not nvidiactl: NVML's


@dataclass(frozen=True, kw_only=True)
class Stretch:
    begin: float  # seconds of the monotonic clock
    end: float
    busy: float | None  # share of the time in which any kernel ran
    shared: bool | None  # whether another process had the GPU, too


class GpuTimeline:
    """Windows of one GPU, from the moment that it is known which one the program has."""

    def __init__(self, pid: int, watch: GpuWatch) -> None:
        self.pid, self.watch, self.stretches = pid, watch, []
        self.start()

    def start(self) -> None:
        self.begun = time.monotonic()
        self.watch.start(self.pid)

    def turn(self) -> None:
        """End the stretch if it is long enough, and begin the next."""
        if time.monotonic() - self.begun >= STRETCH_S:
            self.stop()
            self.start()

    def stop(self) -> None:
        read = self.watch.stop()
        others = read["other_processes"]
        self.stretches.append(
            Stretch(
                begin=self.begun,
                end=time.monotonic(),
                busy=read["utilisation"],
                shared=None if others is None else others > 0,
            )
        )

    def busy(self, begin: float, end: float) -> float | None:
        """The mean share of the stretches within those seconds; None without any."""
        found = [w for w in self.stretches if w.begin >= begin and w.end <= end]
        known = [(w.end - w.begin, w.busy) for w in found if w.busy is not None]
        whole = sum(seconds for seconds, _ in known)
        return sum(seconds * busy for seconds, busy in known) / whole if whole else None


def gpu_of(pids: set[int], open_here: bool, nvml=None) -> GpuWatch | None:
    """The watch of the first GPU that one of these processes has; None: that is not known.

    A container may be told the host's process ids. There the only GPU is theirs, if they have one
    open (`open_here`).
    """
    watch = GpuWatch("cuda", "", nvml=nvml)  # finds no device by an empty name
    if (nvml := watch.nvml) is None:
        return None
    try:
        handles = list(map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount())))
        theirs = [one for one in handles if pids & users(nvml, one)]
    except nvml.NVMLError:
        return None
    if not theirs and open_here and len(handles) == 1:
        theirs = handles
    if not theirs:
        return None
    watch.handle = theirs[0]
    return watch


def users(nvml, handle) -> set[int]:
    """The processes that have the GPU; none where NVML does not tell."""
    try:
        return {one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except nvml.NVMLError:
        return set()


def have_open(pids: set[int]) -> bool:
    """Whether one of these processes has an NVIDIA GPU open, as Linux tells of its files."""
    for pid in pids:
        try:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                if str(file.readlink()).startswith(GPU_FILES):
                    return True
        except OSError:  # it ended, or is another user's
            continue
    return False

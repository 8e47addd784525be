"""How busy an NVIDIA GPU was while a watched program had it, stretch after stretch."""

import time
from dataclasses import dataclass

from common.engine.gpu_watch import GpuWatch

STRETCH_S = 1.0  # so that what came before the first step can be left out


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


def gpu_of(pids: set[int], nvml=None) -> GpuWatch | None:
    """The watch of the first GPU that one of these processes has; None: NVML names none.

    For processes that say nothing of themselves. A container may be told the host's process ids:
    there a program's GPU is found only with -- COMMAND, by its name and number.
    """
    watch = GpuWatch("cuda", "", nvml=nvml)  # finds no device by an empty name
    if (nvml := watch.nvml) is None:
        return None
    try:
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            if pids & {one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}:
                watch.handle = handle
                return watch
    except nvml.NVMLError:
        pass
    return None

"""Who waited for whom in a training: summed over its timed steps, said in one line at the end."""

import os
import textwrap

from common.diagnose.readings import Readings
from common.diagnose.wording import in_a_line
from common.engine.device import allowed_cpus
from common.engine.gpu_watch import GpuWatch

INTERVAL_S = 1.0  # NVML looks back so far for utilisation: not to what came before the steps


class Waits:
    """Seconds of timed steps and of waiting in them, and how busy the GPU was meanwhile.

    That is not measured where stretches of steps are shorter than a second.
    """

    def __init__(self, device_type: str, name: str, index: int) -> None:
        self.device, self.gpu = device_type, GpuWatch(device_type, name, index, INTERVAL_S)
        self.seconds = self.waited = 0.0
        self.stretches: list[tuple[float, float]] = []  # seconds, and the GPU's busy share
        self.last: list[tuple[float, float]] = []  # the same, not taken yet

    def start(self) -> None:
        self.gpu.start(os.getpid())

    def stop(self, seconds: float) -> None:
        """A stretch of steps is over, after so many seconds."""
        busy = self.gpu.stop()["utilisation"]
        if busy is not None:
            self.last.append((seconds, busy))

    def take(self, seconds: float, waited: float) -> None:
        """Count what was seen since the last time."""
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited
        self.stretches += self.last
        self.last = []

    def drop(self) -> None:
        """Leave out what was seen since the last time."""
        self.last = []

    def line(self, batch_size: int, loader_workers: int | None, processes: int) -> str:
        """Who waited, at most 80 columns wide; empty if no step was counted."""
        if not self.seconds:
            return ""
        seen = sum(seconds for seconds, _ in self.stretches)
        busy = sum(seconds * share for seconds, share in self.stretches) / seen if seen else None
        readings = Readings(
            seconds=self.seconds,
            device=self.device,
            busy=busy,
            data_wait=self.waited / self.seconds,
            batch_size=batch_size,
            loader_workers=loader_workers,
            processes=processes,
            cores=allowed_cpus(),
        )
        return textwrap.fill(in_a_line(readings), 80, break_on_hyphens=False)

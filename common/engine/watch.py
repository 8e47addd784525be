"""What else went on while a child timed its steps: seen from the runner, not from the child."""

import psutil

from common.engine.gpu_watch import GpuWatch

OTHERS_SHARE = 0.1  # of all cores' time; below it is the system's own work and its coarse clock


class HostWatch:
    """The processor's time, as the system counts it, from `start` to `stop`."""

    def __init__(self) -> None:
        self.before, self.load = None, None

    def start(self, child_pid: int) -> None:
        self.before = psutil.cpu_times()
        self.load = psutil.getloadavg()[0]

    def stop(self) -> dict:
        """Shares of all cores' time: busy with anything, and taken by the host of this machine.

        Also the system's load (processes wanting to run, mean of a minute) at the start.
        """
        if self.before is None:
            return {}
        before, after = self.before, psutil.cpu_times()
        self.before = None
        passed = sum(after) - sum(before)
        if not passed:
            return {"cpu_busy": None, "cpu_steal": None, "load_1m": self.load}
        steal = getattr(after, "steal", None)  # Linux only
        return {
            "load_1m": self.load,
            "cpu_busy": 1 - (after.idle - before.idle) / passed,
            "cpu_steal": None if steal is None else (steal - before.steal) / passed,
        }


def cpu_disturbance(window: dict, own_share: float | None) -> str | None:
    """What else used the processor while a process should have had it to itself, or None.

    `own_share`: of all cores' time, what the measured process used.
    """
    busy = window.get("cpu_busy")
    if busy is None or own_share is None or busy - own_share < OTHERS_SHARE:
        return None
    return f"other processes used {busy - own_share:.0%} of the CPU"


class DeviceWatch:
    """Host and GPU together, as one dictionary; what cannot be read is None."""

    def __init__(self, gpu: GpuWatch) -> None:
        self.gpu, self.host, self.running = gpu, HostWatch(), False

    def start(self, child_pid: int) -> None:
        self.running = True
        self.host.start(child_pid)
        self.gpu.start(child_pid)

    def stop(self) -> dict:
        """Empty if it was not started."""
        if not self.running:
            return {}
        self.running = False
        return self.host.stop() | self.gpu.stop()

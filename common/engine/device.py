"""What a device is and can do, as far as no library is needed to tell."""

import math
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
TYPES = ("auto", "cuda", "mps", "xpu", "cpu")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What a rung may ask before it says whether it applies."""

    type: str  # cuda, mps, xpu, cpu
    name: str
    vendor: str  # nvidia, amd, apple, intel, cpu
    memory_gib: float  # of the device; on a CPU, of the machine
    native_bf16: bool  # bfloat16 arithmetic in hardware, not emulated
    capability: tuple[int, int] | None = None  # NVIDIA's compute capability
    count: int = 1  # devices of this type

    @property
    def capability_text(self) -> str:
        return ".".join(map(str, self.capability)) if self.capability else "n/a"


def cpu_name() -> str:
    """The processor's model name as the system gives it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def allowed_cpus() -> int:
    """How many processors this process may use: by the machine, its affinity, and its container."""
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # Linux
        counts.append(len(os.sched_getaffinity(0)))
    if quota := container_quota():
        counts.append(max(1, math.ceil(quota)))
    return min(counts)


def container_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that a container may use; None where that is not limited.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max; v1: cpu.cfs_quota_us.
    """
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((root / "cpu" / name).read_text() for name in names)
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def threads_allowed(processes: int = 1) -> int:
    """Threads of each of so many processes: the user's OMP_NUM_THREADS is a limit."""
    share = max(1, allowed_cpus() // processes)
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) else share


def free_memory_gib(root: Path = Path("/sys/fs/cgroup")) -> float:
    """GiB that processes may still take: by the machine, and by its container.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.max; inactive file pages, which
    memory.current counts, are given back when they are wanted.
    """
    free = psutil.virtual_memory().available / GIB
    try:
        most, used = ((root / f"memory.{name}").read_text() for name in ("max", "current"))
        pages = re.search(r"^inactive_file (\d+)", (root / "memory.stat").read_text(), re.M)
        return min(free, (int(most) - int(used) + int(pages[1])) / GIB)
    except (OSError, ValueError, TypeError):  # no container, or one without a limit
        return free


def peak_resident_bytes() -> int:
    """The most memory this process has held since its start, or since VmHWM was reset."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def host_facts() -> DeviceFacts:
    """This machine's processor, as far as the system tells."""
    memory_gib = psutil.virtual_memory().total / GIB
    return DeviceFacts(
        type="cpu", name=cpu_name(), vendor="cpu", memory_gib=memory_gib, native_bf16=False
    )

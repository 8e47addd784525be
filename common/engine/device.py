"""What a device is and can do, as far as no library is needed to tell."""

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

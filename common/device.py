"""The device: which one, what it can do, how much memory it has used."""

import contextlib
import dataclasses
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from common.errors import UserError

GIB = 2**30
TYPES = ("auto", "cuda", "mps", "xpu", "cpu")

# Dense peaks in TFLOPS from the vendors' datasheets (no sparsity), by format.
# A pattern must match a whole word or phrase of the device's name; the first match counts.
PEAK_TFLOPS = {
    r"H100 PCIe": {
        "float8": 1513,
        "bfloat16": 756,
        "tf32": 378,
        "float32": 51,
    },  # H100 datasheet, 2023
    r"H100 NVL": {
        "float8": 1671,
        "bfloat16": 835,
        "tf32": 418,
        "float32": 60,
    },  # H100 datasheet, 2024
    r"H100|H200|GH200": {
        "float8": 1979,
        "bfloat16": 989,
        "tf32": 495,
        "float32": 67,
    },  # H100 SXM, H200 datasheets
    r"A100": {"bfloat16": 312, "tf32": 156, "float32": 19.5},  # A100 datasheet, 2020
    r"L40S": {"bfloat16": 362, "tf32": 183, "float32": 91.6},  # L40S datasheet, 2023
    r"L4": {"bfloat16": 121, "tf32": 60, "float32": 30.3},  # L4 datasheet, halved: it is sparse
    r"A10": {"bfloat16": 125, "tf32": 62.5, "float32": 31.2},  # A10 datasheet, 2021
    r"RTX A6000": {"bfloat16": 154.8, "tf32": 77.4, "float32": 38.7},  # GA102 whitepaper
    r"RTX 4090": {"bfloat16": 165.2, "tf32": 82.6, "float32": 82.6},  # Ada whitepaper, appendix A
    r"RTX 3090": {"bfloat16": 71, "tf32": 35.6, "float32": 35.6},  # GA102 whitepaper, table 2
    r"T4": {"float32": 8.1},  # T4 datasheet, 2018
    r"V100-SXM2": {"float32": 15.7},  # V100 datasheet, 2018
}


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

    def peak_flops(self, recipe) -> float | None:
        """Dense peak in FLOP/s for the number format the recipe multiplies in; None if unknown."""
        for pattern, peaks in PEAK_TFLOPS.items():
            if re.search(rf"\b(?:{pattern})\b", self.name):
                return peaks[recipe.format] * 1e12 if recipe.format in peaks else None
        return None


def pick_type(wanted: str) -> str:
    """The device type for --device. Raises UserError if it is unknown or not there."""
    here = torch.accelerator.current_accelerator(check_available=True)
    if wanted == "auto":
        return here.type if here else "cpu"
    if wanted not in TYPES:
        raise UserError(f"--device {wanted}: unknown; allowed: {', '.join(TYPES)}")
    if wanted != "cpu" and (here is None or here.type != wanted):
        found = f"{here.type} and cpu" if here else "only cpu"
        raise UserError(f"--device {wanted}: torch {torch.__version__} finds {found} here")
    return wanted


def describe(device_type: str) -> DeviceFacts:
    """The facts of the device. On an accelerator this takes device memory while the process lives.

    See `describe_in_child`.
    """
    if device_type == "cpu":
        return DeviceFacts(
            type="cpu",
            name=cpu_name(),
            vendor="cpu",
            memory_gib=psutil.virtual_memory().total / GIB,
            native_bf16=_cpu_has_bf16(),
        )
    if device_type == "mps":
        return DeviceFacts(
            type="mps",
            name=f"{cpu_name()} GPU",
            vendor="apple",
            memory_gib=torch.mps.recommended_max_memory() / GIB,
            native_bf16=torch.backends.mps.is_macos_or_newer(14, 0),
        )
    backend = getattr(torch, device_type)
    properties = backend.get_device_properties(0)
    nvidia = device_type == "cuda" and torch.version.hip is None
    capability = torch.cuda.get_device_capability(0) if nvidia else None
    return DeviceFacts(
        type=device_type,
        name=properties.name,
        vendor="nvidia" if nvidia else "amd" if device_type == "cuda" else "intel",
        memory_gib=properties.total_memory / GIB,
        # from capability 8.0 on; torch.cuda.is_bf16_supported() is true where it is emulated
        native_bf16=capability >= (8, 0) if nvidia else True,
        capability=capability,
        count=backend.device_count(),
    )


def describe_in_child(device_type: str) -> DeviceFacts:
    """The same, asked in a process that ends: the runner itself must not hold device memory."""
    if device_type == "cpu":
        return describe("cpu")
    command = [sys.executable, "-m", "common.device", device_type]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"--device {device_type}: the device does not answer: {last_line}")
    facts = json.loads(done.stdout.splitlines()[-1])
    facts["capability"] = tuple(facts["capability"]) if facts["capability"] else None
    return DeviceFacts(**facts)


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


def _cpu_has_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work. A CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class PeakMemory:
    """Peak memory since `reset`: (reserved, allocated) in GiB.

    On a CPU "reserved" is the peak resident set of this process and "allocated" is unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts = device.type in ("cuda", "xpu")

    def reset(self) -> None:
        if self.counts:
            torch.accelerator.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            # where this is refused the peak includes the warm-up: larger, never smaller
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: man 5 proc

    def read(self) -> tuple[float, float | None]:
        if self.counts:
            reserved = torch.accelerator.max_memory_reserved(self.device)
            return reserved / GIB, torch.accelerator.max_memory_allocated(self.device) / GIB
        if self.device.type == "mps":
            driver = torch.mps.driver_allocated_memory()
            return driver / GIB, torch.mps.current_allocated_memory() / GIB
        return peak_resident_bytes() / GIB, None


def peak_resident_bytes() -> int:
    """The most memory this process has held since its start, or since VmHWM was reset."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(describe(sys.argv[1]))))

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

from common.engine.errors import UserError

GIB = 2**30
TYPES = ("auto", "cuda", "mps", "xpu", "cpu")

FORMATS = ("float32", "tf32", "bfloat16", "float8")
# Dense peaks in TFLOPS, in the order of FORMATS, from the vendor's datasheets; "halved" where those
# count sparsity. A pattern is the whole name after MAKER: a variant has another name and a peak of
# its own, and so have MIG slices ("A100-SXM4-40GB MIG 1g.5gb") and vGPUs ("A10-4Q"). None of AMD's:
# an MI250X is two devices, and a partition of an MI300X has the whole card's name.
MAKER = r"(NVIDIA )?(Tesla |GeForce )?"  # drivers of different years print more or less of it
PEAK_TFLOPS = {
    r"B200": (75, 1100, 2250, 4500),  # HGX B200 datasheet, 2025, halved
    r"H100 80GB HBM3|H200": (67, 495, 989, 1979),  # H100 (SXM), H200 datasheets, 2024, halved
    r"GH200 (120GB|480GB|144G HBM3e)": (67, 494, 990, 1979),  # GH200 datasheet, 2023
    r"H100 NVL|H200 NVL": (60, 418, 835, 1671),  # H100, H200 datasheets, 2024, halved
    r"H100 PCIe": (51, 378, 756, 1513),  # H100 datasheet, 2023, halved
    r"A100-(SXM4?|PCIE)-(40|80)GB|A100 80GB PCIe": (19.5, 156, 312),  # A100 datasheet, 2020
    r"A30": (10.3, 82, 165),  # A30 datasheet, 2022
    r"A40": (37.4, 74.8, 149.7),  # A40 datasheet, 2021
    r"A10": (31.2, 62.5, 125),  # A10 datasheet, 2021
    r"L40S": (91.6, 183, 362, 733),  # L40S datasheet, 2023
    r"L40": (90.5, 90.5, 181, 362),  # L40 datasheet, 2022
    r"L4": (30.3, 60, 121, 242.5),  # L4 datasheet, 2023, halved
    r"RTX A6000": (38.7, 77.4, 154.8),  # GA102 whitepaper
    r"RTX 4090": (82.6, 82.6, 165.2, 330.3),  # Ada whitepaper 2.02, appendix A: float32 sums
    r"RTX 3090": (35.6, 35.6, 71),  # GA102 whitepaper, table 2: float32 sums
    r"T4": (8.1,),  # T4 datasheet, 2018
    r"V100-SXM2-(16|32)GB": (15.7,),  # V100 datasheet, 2018
    r"V100-PCIE-(16|32)GB": (14,),  # V100 datasheet, 2018
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
        for pattern, tflops in PEAK_TFLOPS.items():
            if re.fullmatch(f"{MAKER}({pattern})", self.name):
                peak = dict(zip(FORMATS, tflops, strict=False)).get(recipe.format)
                return peak and peak * 1e12
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
    vendor = "intel" if device_type == "xpu" else "amd" if torch.version.hip else "nvidia"
    return DeviceFacts(
        type=device_type,
        name=properties.name,
        vendor=vendor,
        memory_gib=properties.total_memory / GIB,
        native_bf16=bf16_in_hardware(vendor, properties),
        capability=torch.cuda.get_device_capability(0) if vendor == "nvidia" else None,
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


# AMD's architectures with matrix instructions for bfloat16: MFMA on MI100, MI200, MI300, MI350
# (LLVM, reviews.llvm.org/D121956), WMMA from RDNA 3 on (AMD, RDNA3 Instruction Set Architecture)
BF16_ON_AMD = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")


def bf16_in_hardware(vendor: str, properties) -> bool:
    """Whether a GPU multiplies bfloat16 itself, from what torch tells of it.

    torch.cuda.is_bf16_supported() and torch.xpu.is_bf16_supported() say yes to emulation, too.
    """
    if vendor == "nvidia":
        return properties.major >= 8  # Ampere: CUDA C++ Programming Guide, compute capabilities
    if vendor == "amd":
        return properties.gcnArchName.startswith(BF16_ON_AMD)
    # DPAS, of Intel's matrix units; has_bfloat16_conversions is about conversions alone
    return properties.has_subgroup_matrix_multiply_accumulate


def _cpu_has_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work. A CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


NO_MEMORY = (  # in the words of those whose errors have no type of their own
    "can't allocate memory",  # c10's allocator for CPUs
    "out of memory",  # CUDA's runtime and driver, HIP, Level Zero, and Triton's launcher
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, rocBLAS
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out."""
    if error is None:
        return False
    typed = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return typed or told or out_of_memory(error.__cause__)


def give_back(device: torch.device) -> None:
    """Return what the allocator holds and no tensor uses, so that no later peak includes it."""
    if device.type in ("cuda", "xpu"):
        torch.accelerator.empty_cache()


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

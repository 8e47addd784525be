"""The device: which one, what it can do, its clock, and how much memory it has used."""

import contextlib
import ctypes
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from common.engine.clock import Clock, HostClock
from common.engine.device import (
    GIB,
    TYPES,
    DeviceFacts,
    cpu_name,
    host_facts,
    peak_resident_bytes,
)
from common.engine.errors import UserError
from common.engine.machine import machine_facts, version_facts
from common.engine.workload import Launch


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
        return dataclasses.replace(host_facts(), native_bf16=_cpu_has_bf16())
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
    command = [sys.executable, "-m", __name__, device_type]
    found = Launch().variables()
    done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=120)
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"--device {device_type}: the device does not answer: {last_line}")
    facts = json.loads(done.stdout.splitlines()[-1])
    facts["capability"] = tuple(facts["capability"]) if facts["capability"] else None
    return DeviceFacts(**facts)


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


def missing_bf16(device: DeviceFacts) -> str | None:
    """Why a device should not multiply bfloat16, or None. A CPU's emulation can take 100 times."""
    if device.native_bf16:
        return None
    return f"{device.name} has no bfloat16 arithmetic and would emulate it"


def _cpu_has_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work. A CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def give_back(device: torch.device) -> None:
    """Return what an allocator holds and no tensor uses, so that no later peak includes it."""
    empty_cache(device)
    if device.type == "cpu" and sys.platform == "linux":  # where pages are kept, this asks for them
        for name, given in (("malloc_trim", [0]), ("MallocExtension_ReleaseFreeMemory", [])):
            with contextlib.suppress(AttributeError):  # glibc's or tcmalloc's, where it is there
                getattr(ctypes.CDLL(None), name)(*given)


def empty_cache(device: torch.device) -> None:
    """The same of torch's own allocator, which a CPU has none of."""
    if device.type in ("cuda", "xpu"):
        torch.accelerator.empty_cache()


def room(device: torch.device) -> tuple[float, float] | None:
    """GiB of the device that this process holds, and that are free; None: the host's memory."""
    if device.type not in ("cuda", "xpu"):
        return None
    free, _ = getattr(torch, device.type).mem_get_info(device)
    return torch.accelerator.memory_reserved(device) / GIB, free / GIB


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


class EventClock:
    """Marks that the device records as it passes them; the host does not wait."""

    def __init__(self, wait: Callable[[], None], event: Callable[[], torch.Event]) -> None:
        self.wait, self.event, self.marks = wait, event, []

    def mark(self) -> None:
        self.marks.append(self.event())
        self.marks[-1].record()

    def step_seconds(self) -> list[float]:
        self.wait()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]  # ms -> s


def make_clock(device: torch.device) -> Clock:
    def wait() -> None:
        synchronize(device)

    if device.type in ("cuda", "xpu"):
        return EventClock(wait, lambda: torch.Event(device, enable_timing=True))
    return HostClock(wait)


def torch_facts(device: DeviceFacts) -> dict:
    """What figures depend on where torch computes: "machine" and "versions"."""
    cuda = torch.version.cuda is not None and torch.cuda.is_available()
    return {
        "machine": machine_facts(device)
        | {
            "threads": torch.get_num_threads(),
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": version_facts()
        | {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "triton": _installed("triton"),
        },
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(describe(sys.argv[1]))))

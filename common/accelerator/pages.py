"""How a process gets its memory: settings that must be there before it starts, and their proof."""

import os
import re
import sys
from ctypes.util import find_library
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from common.engine.contract import NotInEffect

KEPT, HUGE, TCMALLOC = "kept pages", "huge pages", "tcmalloc"
GLIBC = {  # huge pages need a system that gives them
    KEPT: (  # never map a tensor by itself, never give the heap's end back
        "MALLOC_MMAP_THRESHOLD_=4294967296",
        "MALLOC_TRIM_THRESHOLD_=17179869184",
        "MALLOC_TOP_PAD_=268435456",  # and grow the heap by 256 MiB
    ),
    HUGE: ("GLIBC_TUNABLES=glibc.malloc.hugetlb=1",),
}
CUDA = ("PYTORCH_ALLOC_CONF=expandable_segments:True",)


def missing(device) -> str | None:
    """Why there are no such settings for a device; None where there are."""
    if device.type not in ("cpu", "cuda"):
        return f"no such setting for {device.type}"
    if device.type == "cpu" and sys.platform != "linux":
        return "these settings are glibc's, on Linux"
    return None


@cache
def choices() -> dict[str, tuple[str, ...]]:
    """A CPU's: another allocator, if it is installed, and how glibc can get memory.

    Of two that are as fast the first is taken; glibc's kept pages hold more than tcmalloc's.
    """
    library = find_library("tcmalloc_minimal") or find_library("tcmalloc")
    if library is None:
        return GLIBC
    return {TCMALLOC: (f"LD_PRELOAD={library}", "TCMALLOC_RELEASE_RATE=0")} | GLIBC


def candidates(device, recipe) -> dict:
    """The choices for a CPU, each a recipe with its `environment`; elsewhere there is nothing to
    choose."""
    if device.type != "cpu":
        return {}
    return {label: replace(recipe, environment=own + CUDA) for label, own in choices().items()}


def usual(recipe):
    """Settings for either: CUDA's allocator and glibc's each read their own."""
    return replace(recipe, environment=GLIBC[KEPT] + CUDA)


def seen(environment: tuple[str, ...], device_type: str) -> str:
    """What this process shows of the settings. Raises NotInEffect if they do not act."""
    for setting in environment:
        name, value = setting.split("=", 1)
        if os.environ.get(name) != value:
            raise NotInEffect(f"{name} was not set before the process started")
    if device_type != "cpu":
        return expandable_segments(torch.cuda.memory_snapshot())
    if set(GLIBC[HUGE]) <= set(environment):
        return f"{huge_mib():.0f} MiB huge"
    if "LD_PRELOAD" not in dict(setting.split("=", 1) for setting in environment):
        return KEPT
    if TCMALLOC not in Path("/proc/self/maps").read_text():
        raise NotInEffect("the process started without tcmalloc")
    return TCMALLOC


def expandable_segments(snapshot: list[dict]) -> str:
    """What the allocator's snapshot shows. Raises NotInEffect if no segment can grow."""
    count = sum(segment["is_expandable"] for segment in snapshot)
    if not count:
        raise NotInEffect(f"none of {len(snapshot)} segments is expandable")
    return f"{count} of {len(snapshot)} segments expandable"


def huge_mib() -> float:
    """Of this process's memory, what lies in transparent huge pages. Raises NotInEffect if none."""
    kib = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    if kib is None or not int(kib[1]):
        raise NotInEffect("the system gave no huge pages: see transparent_hugepage/enabled")
    return int(kib[1]) / 1024

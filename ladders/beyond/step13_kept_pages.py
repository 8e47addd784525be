"""13. Kept pages.

Changes: memory that torch frees stays in the process instead of going back to the system: glibc's
thresholds on CPUs, expandable segments in CUDA's allocator.
Why faster: on a CPU every large tensor is otherwise fresh memory, and its first touch is a page
fault for each 4 KiB, at every step again; on a GPU segments that grow are cut up less.
Cost: the process keeps what it once needed. When not: beside others that need the memory.
Source: mallopt(3); PyTorch, CUDA semantics, memory management. Expected: 1.2 times on a CPU, memory
rather than speed on a GPU.
"""

import os
import sys
from dataclasses import replace

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

CHANGES = ("environment",)
NUMERICS = Numerics.EXACT
GLIBC = (  # never map a tensor by itself, never give the heap's end back, grow it by 256 MiB
    "MALLOC_MMAP_THRESHOLD_=4294967296",
    "MALLOC_TRIM_THRESHOLD_=17179869184",
    "MALLOC_TOP_PAD_=268435456",
)
CUDA = ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",)


def settings(device_type: str) -> tuple[str, ...]:
    return CUDA if device_type == "cuda" else GLIBC


def applies(device, recipe: Recipe) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"no such setting for {device.type}"
    if device.type == "cpu" and sys.platform != "linux":
        return "these thresholds are glibc's, on Linux"
    return None


def in_effect(run: Run) -> str:
    for setting in run.recipe.environment:
        name, value = setting.split("=", 1)
        if os.environ.get(name) != value:
            raise NotInEffect(f"{name} was not set before the process started")
    return f"{len(run.recipe.environment)} settings"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, environment=GLIBC + CUDA)  # each allocator reads its own

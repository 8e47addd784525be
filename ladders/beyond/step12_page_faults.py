"""12. Fewer page faults.

Changes: how the process gets its memory from the system: huge pages, or pages that stay in the
process when torch frees them; expandable segments in CUDA's allocator.
Why faster: on a CPU every large tensor is otherwise fresh memory, and its first touch is a page
fault for each 4 KiB, at every step again. A huge page is one fault for 2 MiB, a kept one is none.
On a GPU segments that grow are cut up less.
Cost: memory, most of all where pages are kept. Which is fastest differs: it is measured. When not:
beside others that need the memory.
Source: mallopt(3); glibc manual, Memory Allocation Tunables; PyTorch, CUDA semantics, memory
management. Expected: 1.1 to 1.2 times on a CPU, memory rather than speed on a GPU.
"""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

CHANGES = ("environment",)
NUMERICS = Numerics.EXACT
HUGE = "huge pages"
CHOICES = {  # of glibc's allocator; huge pages need a system that gives them
    "kept pages": (  # never map a tensor by itself, never give the heap's end back
        "MALLOC_MMAP_THRESHOLD_=4294967296",
        "MALLOC_TRIM_THRESHOLD_=17179869184",
        "MALLOC_TOP_PAD_=268435456",  # and grow the heap by 256 MiB
    ),
    HUGE: ("GLIBC_TUNABLES=glibc.malloc.hugetlb=1",),
}
CUDA = ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",)


def applies(device, recipe: Recipe) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"no such setting for {device.type}"
    if device.type == "cpu" and sys.platform != "linux":
        return "these settings are glibc's, on Linux"
    return None


def in_effect(run: Run) -> str:
    for setting in run.recipe.environment:
        name, value = setting.split("=", 1)
        if os.environ.get(name) != value:
            raise NotInEffect(f"{name} was not set before the process started")
    if run.device.type != "cpu":
        return "expandable segments"
    label = next(k for k, v in CHOICES.items() if set(v) <= set(run.recipe.environment))
    return f"{huge_mib():.0f} MiB huge" if label == HUGE else label


def huge_mib() -> float:
    """Of this process's memory, what lies in transparent huge pages. Raises NotInEffect if none."""
    kib = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    if kib is None or not int(kib[1]):
        raise NotInEffect("the system gave no huge pages: see transparent_hugepage/enabled")
    return int(kib[1]) / 1024


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, environment=CHOICES["kept pages"] + CUDA)  # each reads its own


def candidates(recipe: Recipe) -> dict[str, Recipe]:
    return {label: replace(recipe, environment=set_ + CUDA) for label, set_ in CHOICES.items()}

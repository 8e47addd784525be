"""2. Fewer page faults.

Changes: how the process gets memory. On a CPU, glibc asks for huge pages or keeps freed memory
(both are tried). On CUDA, segments of torch's allocator can grow (expandable_segments in
PYTORCH_ALLOC_CONF, older name PYTORCH_CUDA_ALLOC_CONF); is_expandable in its snapshot proves it.
Why faster: on a CPU, large tensors' memory goes back to the system when it is freed. To take it
again, as every step does, costs a page fault for each 4 KiB. A huge page is one fault for 2 MiB, a
kept page none. On a GPU, segments that can grow fragment less: that saves memory rather than time.
Cost: memory, most of all where pages are kept.
When not: beside other programs that need the memory.
Source: mallopt(3); glibc manual, Memory Allocation Tunables; PyTorch, CUDA semantics.
Expected: 1.1 to 1.2 times on a CPU, memory rather than speed on a GPU.
"""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

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
CUDA = ("PYTORCH_ALLOC_CONF=expandable_segments:True",)


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
        return expandable_segments(torch.cuda.memory_snapshot())
    label = next(k for k, v in CHOICES.items() if set(v) <= set(run.recipe.environment))
    return f"{huge_mib():.0f} MiB huge" if label == HUGE else label


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


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, environment=CHOICES["kept pages"] + CUDA)  # each reads its own


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    if device.type != "cpu":
        return {}  # there is nothing to choose
    return {label: replace(recipe, environment=set_ + CUDA) for label, set_ in CHOICES.items()}

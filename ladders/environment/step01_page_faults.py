"""1. Fewer page faults.

Changes: how glibc gets memory for the command: it asks for huge pages, or keeps what is freed
(both are tried).
Why faster: large tensors' memory goes back to the system when it is freed. To take it again, as
every training step does, costs a page fault for each 4 KiB. A huge page is one fault for 2 MiB, a
kept page none. The column of page faults shows it.
Cost: memory, most of all where pages are kept.
When not: beside other programs that need the memory; where the command brings another allocator
(jemalloc, tcmalloc), which does not read these variables.
Source: mallopt(3); glibc manual, Memory Allocation Tunables (hugetlb: from glibc 2.35 on).
Expected: 1.1 to 1.2 times for a training on a CPU, nothing where a GPU does the work.
"""

import sys
from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("allocator",)
NUMERICS = Numerics.ROUNDING
HUGE = "huge pages"
CHOICES = {
    "kept pages": (  # never map a tensor by itself, never give the heap's end back
        "MALLOC_MMAP_THRESHOLD_=4294967296",
        "MALLOC_TRIM_THRESHOLD_=17179869184",
        "MALLOC_TOP_PAD_=268435456",  # and grow the heap by 256 MiB
    ),
    HUGE: ("GLIBC_TUNABLES=glibc.malloc.hugetlb=1",),
}


def applies(device, recipe: CommandRecipe) -> str | None:
    if sys.platform != "linux":
        return "these variables are glibc's, on Linux"
    return already_set(*(one.split("=")[0] for choice in CHOICES.values() for one in choice))


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.allocator)
    if run.recipe.allocator != CHOICES[HUGE]:
        return "kept pages, by the environment"
    if not (mib := run.program.huge_mib()):
        raise NotInEffect("the system gave no huge pages: see transparent_hugepage/enabled")
    return f"{mib:,.0f} MiB huge"


def apply(recipe: CommandRecipe) -> CommandRecipe:
    return replace(recipe, allocator=CHOICES["kept pages"])


def candidates(device, recipe: CommandRecipe) -> dict[str, CommandRecipe]:
    return {label: replace(recipe, allocator=choice) for label, choice in CHOICES.items()}

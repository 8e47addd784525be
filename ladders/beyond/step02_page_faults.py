"""2. Fewer page faults.

Changes: how the process gets memory. On a CPU, glibc asks for huge pages or keeps freed memory, or
tcmalloc, if the system has it, takes glibc's place (all are tried). On CUDA, segments of torch's
allocator can grow (expandable_segments in PYTORCH_ALLOC_CONF, older name PYTORCH_CUDA_ALLOC_CONF);
is_expandable in its snapshot proves it.
Why faster: on a CPU, large tensors' memory goes back to the system when it is freed. To take it
again, as every step does, costs a page fault for each 4 KiB. A huge page is one fault for 2 MiB, a
kept page none. tcmalloc keeps large tensors apart from small ones, so that its kept memory
fragments less. So do, on a GPU, segments that can grow: that saves memory rather than time.
Cost: memory, most of all where glibc keeps it.
When not: beside other programs that need the memory.
Source: mallopt(3); glibc manual, Memory Allocation Tunables; gperftools, TCMalloc; PyTorch, CUDA
semantics.
Expected: 1.1 to 1.2 times on a CPU, memory rather than speed on a GPU.
"""

from common.accelerator import pages
from common.engine.contract import Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("environment",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    return pages.missing(device)


def in_effect(run: Run) -> str:
    return pages.seen(run.recipe.environment, run.device.type)


def apply(recipe: Recipe) -> Recipe:
    return pages.usual(recipe)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return pages.candidates(device, recipe)

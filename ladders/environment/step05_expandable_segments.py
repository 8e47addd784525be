"""5. Expandable segments.

Changes: segments of torch's allocator for CUDA can grow (expandable_segments in
PYTORCH_ALLOC_CONF, older name PYTORCH_CUDA_ALLOC_CONF; both are set).
Why faster: segments that can grow fragment less. A command whose shapes vary, or that nearly fills
the memory, then frees and asks again less often.
Cost: next to nothing.
When not: where tensors are shared between processes in ways that it does not support.
Source: PyTorch, CUDA semantics, Optimizing memory usage.
Expected: memory rather than speed; how much is not seen from outside.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("cuda_allocator",)
NUMERICS = Numerics.ROUNDING
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def applies(device, recipe: CommandRecipe) -> str | None:
    if device.vendor != "nvidia":
        return f"a setting of torch's allocator for NVIDIA's GPUs; this is {device.name}"
    return already_set(*NAMES)


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.cuda_allocator)
    if not run.program.on_gpu():
        raise NotInEffect("none of the command's processes has a GPU open")
    return "by the environment; a GPU is open"


def apply(recipe: CommandRecipe) -> CommandRecipe:
    settings = tuple(f"{name}=expandable_segments:True" for name in NAMES)
    return replace(recipe, cuda_allocator=settings)

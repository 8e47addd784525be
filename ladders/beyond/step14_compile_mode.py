"""14. Compile mode.

Changes: how long torch.compile searches for kernels, and whether it records them as CUDA graphs.
Why faster: max-autotune times several kernels for each matrix product and keeps the fastest; some
of them have the operations that follow fused in. A CUDA graph launches all kernels of the compiled
forward or backward pass at once, which helps where launching a kernel takes longer than running it.
Cost: minutes of compilation. CUDA graphs need memory of their own.
When not: for short runs. On a CPU max-autotune gave no gain (LOG.md).
Source: torch.compile's documentation; Nguyen, Carilli, et al. 2021, Accelerating PyTorch with CUDA
Graphs, PyTorch blog.
Expected: 2 % on an H100 by max-autotune-no-cudagraphs; CUDA graphs only at batches below 16.
"""

from dataclasses import replace

from common.accelerator.compiler import cuda_graph_skips
from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("compile_mode",)
NUMERICS = Numerics.ROUNDING
GRAPHS = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs
MODES = ("max-autotune-no-cudagraphs", "default", "reduce-overhead", "max-autotune")


def applies(device, recipe: Recipe) -> str | None:
    if not recipe.compile:
        return "it changes how step 8 compiles, which does not apply"
    if device.type != "cuda":
        return f"modes are measured on CUDA devices only; this is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if run.graphs == 0:
        raise NotInEffect("nothing was compiled")
    if run.recipe.compile_mode in GRAPHS and (skips := cuda_graph_skips()):
        raise NotInEffect(f"the compiler left out {skips} CUDA graph(s)")
    return run.recipe.compile_mode


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, compile_mode=MODES[0])


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {mode: replace(recipe, compile_mode=mode) for mode in MODES}

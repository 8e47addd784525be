"""21. Compile mode.

Changes: how long torch.compile searches, and whether it records the step as a CUDA graph.
Why faster: max-autotune times several kernels for each matrix product, its own with what follows
the product fused in among them, and keeps the fastest. A CUDA graph launches the whole step at
once, which helps where kernels are so short that launching them is what takes the time.
Cost: minutes of compilation; a CUDA graph keeps its memory to itself. When not: for short runs. On
CPUs no gain was found (LOG.md).
Source: torch.compile's documentation; Ng 2021, Accelerating PyTorch with CUDA Graphs.
Expected: 2 % on an H100 by max-autotune-no-cudagraphs; CUDA graphs only at batches below 16.
"""

from dataclasses import replace

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

CHANGES = ("compile_mode",)
NUMERICS = Numerics.ROUNDING
MODES = ("max-autotune-no-cudagraphs", "default", "reduce-overhead", "max-autotune")


def applies(device, recipe: Recipe) -> str | None:
    if not recipe.compile:
        return "it changes how step 8 compiles, which does not apply"
    if device.type != "cuda":
        return f"the modes differ on CUDA devices; this is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if run.graphs == 0:
        raise NotInEffect("nothing was compiled")
    return run.recipe.compile_mode


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, compile_mode=MODES[0])


def candidates(recipe: Recipe) -> dict[str, Recipe]:
    return {mode: replace(recipe, compile_mode=mode) for mode in MODES}

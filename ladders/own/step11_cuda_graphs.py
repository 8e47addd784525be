"""11. CUDA graphs.

Changes: the compiled forward and backward passes are recorded as CUDA graphs (reduce-overhead).
Why faster: all kernels of a pass are launched at once. That helps where launching a kernel takes
longer than running it: small batches, narrow models.
Cost: memory of their own for each graph; inputs are copied to a fixed place.
When not: where shapes change from step to step, or the device is busy all the time already.
Source: docs.pytorch.org/docs/stable/torch.compiler_cudagraph_trees.html
Expected: nothing at large batches; up to 1.5 times where the GPU waits for the host.
"""

from dataclasses import replace

from common.accelerator.compiler import cuda_graph_skips
from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

CHANGES = ("compile_mode",)
NUMERICS = Numerics.ROUNDING
MODE = "reduce-overhead"


def applies(device, recipe: OwnRecipe) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs are recorded on CUDA devices only; this is {device.type}"
    if not recipe.compile:
        return "it changes how rung 10 compiles, which does not apply"
    return None


def in_effect(run: Run) -> str:
    if skips := cuda_graph_skips():
        raise NotInEffect(f"the compiler left out {skips} CUDA graph(s)")
    return MODE


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, compile_mode=MODE)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    return [f'model.compile(mode="{MODE}")']

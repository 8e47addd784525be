"""8. torch.compile.

Changes: the model's forward and backward pass are compiled to fused kernels.
Why faster: a chain of elementwise operations becomes one kernel that reads and writes memory once,
and Python no longer starts each operation. The compiler also pads products of odd widths: by an
H200's profile most of this rung's gain is the head's, which step 9 would have padded (LOG.md).
Cost: the first step takes from seconds to minutes (its own column), and a new input shape may have
to be compiled again. GPUs need Triton, CPUs a C++ compiler.
When not: for short runs, which do not earn the compilation back.
Source: Ansel et al. 2024, PyTorch 2, doi:10.1145/3620665.3640366.
"""

from dataclasses import replace

from common.accelerator.compiler import missing_compiler
from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("compile",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: Recipe) -> str | None:
    return missing_compiler(device)


def in_effect(run: Run) -> str:
    if run.graphs == 0:
        raise NotInEffect("nothing was compiled: the model ran eagerly")
    wrapped = run.model is not run.inner  # DDP cuts the graph, so that it can send in between
    if run.graph_breaks and not wrapped:
        raise NotInEffect(f"the graph broke {run.graph_breaks} times")
    return f"{run.graphs} graph{'s' * (run.graphs > 1)}, {run.graph_breaks} breaks"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, compile=True)

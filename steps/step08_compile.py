"""8. torch.compile.

Changes: the model's forward and backward pass are compiled to fused kernels.
Why faster: chains of elementwise operations become one kernel that reads and writes memory once,
and Python's cost per operation is gone.
Cost: the first step takes from seconds to minutes (its own column), and each new input shape is
compiled again. Needs Triton on GPUs, a C++ compiler on CPUs; short runs never earn it back.
Source: Ansel et al. 2024, PyTorch 2, doi:10.1145/3620665.3640366.
"""

from dataclasses import replace

from common.build import Run
from common.compiler import missing_compiler
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

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

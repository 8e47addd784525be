"""1. Loss in the graph.

Changes: the model and its cross-entropy are compiled together, as one graph.
Why faster: an eager cross-entropy runs several kernels (softmax, its backward pass), and each reads
or writes the (B T, V) logits again. Compiled, they are fused into fewer passes.
Cost: none beside compile time.
When not: if something between model and loss must be looked at.
Source: Ansel et al. 2024, PyTorch 2, doi:10.1145/3620665.3640366.
Expected: 5 to 10 % on an H100, 1.1 times on a CPU.
"""

from dataclasses import replace

from common.accelerator.compiler import missing_compiler
from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("loss_in_graph",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: Recipe) -> str | None:
    return missing_compiler(device)


def in_effect(run: Run) -> str:
    if "aten::nll_loss_forward" in run.operators or "aten::cross_entropy_loss" in run.operators:
        raise NotInEffect("an eager cross-entropy ran")
    return f"{run.graphs} graph{'s' * (run.graphs > 1)}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, loss_in_graph=True)

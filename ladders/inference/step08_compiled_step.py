"""8. Compiled step.

Changes: the forward pass of a single token is compiled. Its shapes are fixed: attention goes over
all slots of the cache, behind a mask. On CUDA the pass is recorded as a CUDA graph.
Why faster: a token's pass is some hundred small operations, each of which the host must start. A
graph starts them all at once, and fused kernels make them fewer.
Cost: seconds to compile (its own column), again for every other capacity or number of requests;
slots that are not filled yet are read, too.
When not: for short answers, which do not earn the compilation back; on CPUs, where starting an
operation is cheap.
Source: pytorch-labs/gpt-fast, generate.py; Nguyen, Carilli, et al. 2021, Accelerating PyTorch with
CUDA Graphs, PyTorch blog.
Expected: 4 times on an A100 (gpt-fast: 25 to 107 tok/s, 7B); nothing on a CPU.
"""

from dataclasses import replace

import torch

from common.accelerator.compiler import cuda_graph_skips, missing_compiler
from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run
from ladders.inference.step02_preallocated_cache import Preallocated

CHANGES = ("cache", "compile", "compile_mode")
NUMERICS = Numerics.ROUNDING


class Fixed(Preallocated):
    """A token's pass has the same shapes wherever it stands: its place is a tensor, too."""

    def __init__(self, shape, dtype, requests, capacity, device) -> None:
        super().__init__(shape, dtype, requests, capacity, device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        for tensor in (self.keys, self.values, self.places, self.place):
            torch._dynamo.mark_static_address(
                tensor
            )  # a CUDA graph may write where it was recorded

    def begin(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids, positions = super().begin(ids)
        return ids, positions if len(positions) > 1 else self.place.fill_(self.length - 1)

    def extend(self, layer: int, key, value, positions) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer], self.values[layer]  # (B, H, capacity, D)
        keys.index_copy_(2, positions, key)
        values.index_copy_(2, positions, value)
        return keys, values

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        return self.places <= positions[..., None]  # (n, capacity)

    def reads(self, length: int) -> int:
        return super().reads(self.capacity)


def applies(device, recipe: GenerateRecipe) -> str | None:
    return missing_compiler(device)


def in_effect(run: Run) -> str:
    if run.graphs != 1 or run.graph_breaks:
        raise NotInEffect(f"{run.graphs} graphs were compiled, with {run.graph_breaks} breaks")
    if run.device.type == "cuda" and (skips := cuda_graph_skips()):
        raise NotInEffect(f"the compiler left out {skips} CUDA graph(s)")
    return "one graph"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, cache=Fixed, compile=True, compile_mode="reduce-overhead")

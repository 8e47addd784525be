"""5. Packed weights.

Changes: weight matrices are reordered once, into the layout that the library's kernels multiply in.
Why faster: on a CPU oneDNN otherwise reorders a 16-bit matrix within each product. That is lost
among a training step's rows; for a token's single row it is most of the time.
Cost: the matrices' layout is the library's own: they can be multiplied with, and not be read.
When not: on GPUs, whose libraries read weights as they are; with weights in fewer bits, which have
kernels and layouts of their own (rungs 6 and 7 take this one's place).
Source: oneDNN, Memory Format Propagation; torch's inductor packs weights so when it freezes a model
(torch/_inductor/mkldnn_lowerings.py).
Expected: 1.6 times for the matrix products; the numbers are bit for bit the same.
"""

from dataclasses import replace

import torch

from common.accelerator.onednn import packs_bfloat16
from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.linears import Linear
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run, kernel_calls

CHANGES = ("linear",)
NUMERICS = Numerics.ROUNDING


class Packed(Linear):
    """The weight in oneDNN's own layout."""

    operator = "mkldnn::_linear_pointwise"

    def pack(self, weight: torch.Tensor, recipe) -> None:
        plain = weight.to(recipe.dtype)
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(plain, None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def applies(device, recipe: GenerateRecipe) -> str | None:
    if device.type != "cpu":
        return "its library reads weights as they are: packing is for CPUs"
    if recipe.dtype is not torch.bfloat16:
        return "it is for 16-bit products on a CPU (rung 3)"
    return None if packs_bfloat16() else "torch packs 16-bit weights with AVX-512 only, on x86"


def in_effect(run: Run) -> str:
    called, due = kernel_calls(run)
    if called != due:
        raise NotInEffect(f"{called} of {due} products took packed weights")
    return f"{due // run.new_tokens} products a token"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, linear=Packed)

"""6. int8 weights.

Changes: weight matrices are 8-bit integers with a scale for each output; activations stay as they
are. A kernel converts the weights as it reads them.
Why faster: half of bfloat16's bytes are read for a token.
Cost: rounding to 127 steps of an output's largest weight. The kernel is for few rows: a prompt's
many would take twice as long with it, so they dequantise each matrix once instead.
When not: at many requests, where products are bound by arithmetic; above float32 activations.
Source: pytorch-labs/gpt-fast, quantize.py; torch's aten/src/ATen/native/cpu/int8mm_kernel.cpp;
pytorch/ao issue 3157 (int8 slower than bfloat16).
Expected: 1.5 times over bfloat16 on a CPU.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.linears import Quantised, by_channel, no_kernel
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run, kernel_calls

CHANGES = ("linear",)
NUMERICS = Numerics.LOWER_PRECISION


class Int8(Quantised):
    """Codes (N, K) int8 and scales (N,)."""

    format, operator = "int8", "aten::_weight_int8pack_mm"
    most_rows = 12  # at 16 dequantising was faster on a CPU (LOG.md)

    def pack(self, weight: torch.Tensor, recipe) -> None:
        codes, scales = by_channel(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales.to(recipe.dtype))

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.scales)

    def many(self, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(rows, self.codes.to(rows.dtype)) * self.scales

    @staticmethod
    def rounded(weight: torch.Tensor, recipe) -> torch.Tensor:
        codes, scales = by_channel(weight)
        return codes.double() * scales.to(recipe.dtype).double()[:, None]


def applies(device, recipe: GenerateRecipe) -> str | None:
    return no_kernel(device, recipe)


def in_effect(run: Run) -> str:
    called, due = kernel_calls(run)
    if called != due:
        raise NotInEffect(f"{called} of {due} products took the int8 kernel")
    return f"{due // run.new_tokens} products a token"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, linear=Int8)

"""7. int4 weights in groups.

Changes: weight matrices are 4-bit integers. Each group of neighbours in a row has a scale and a
zero; groups of 32, 64, and 128 are tried. The head is padded to a multiple of 16 outputs.
Why faster: 5 bits a weight in groups of 32, against bfloat16's 16.
Cost: 15 steps from a group's least weight to its largest, and that is felt: look at the held-out
loss. Larger groups are smaller and coarser. Packing takes a moment at the start.
When not: if the loss matters more than speed; GPTQ and AWQ choose codes by the activations.
Source: Frantar et al. 2022, GPTQ, arXiv:2210.17323; pytorch-labs/gpt-fast, quantize.py; torch's
aten/src/ATen/native/cpu/int4mm_kernel.cpp.
Expected: 2.4 times over bfloat16 on a CPU.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.engine.contract import DoesNotApply, NotInEffect, Numerics
from common.workloads.generate.linears import Quantised, from_groups, in_groups, no_kernel
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run, kernel_calls

CHANGES = ("linear", "group")
NUMERICS = Numerics.LOWER_PRECISION
GROUPS = (32, 64, 128)  # the kernel also takes 256
MULTIPLE = 16  # of outputs, that the kernel for CPUs wants
KERNELS = {"cpu": "_weight_int4pack_mm_for_cpu", "cuda": "_weight_int4pack_mm"}


class Int4(Quantised):
    """Packed codes, and scale and zero of each group, (K / group, N, 2)."""

    format = "int4"

    @property
    def operator(self) -> str:
        return f"aten::{KERNELS[self.both.device.type]}"

    def pack(self, weight: torch.Tensor, recipe) -> None:
        if self.inputs % recipe.group:
            raise DoesNotApply(f"{self.inputs} inputs are not made of groups of {recipe.group}")
        self.group, padding = recipe.group, -self.outputs % MULTIPLE
        codes, both = in_groups(F.pad(weight, (0, 0, 0, padding)), self.group, recipe.dtype)
        self.register_buffer("codes", packed(codes))
        self.register_buffer("both", both)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        kernel = getattr(torch.ops.aten, KERNELS[rows.device.type])
        return kernel(rows, self.codes, self.group, self.both)[:, : self.outputs]

    @staticmethod
    def rounded(weight: torch.Tensor, recipe) -> torch.Tensor:
        return from_groups(*in_groups(weight, recipe.group, recipe.dtype), torch.float64)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Codes (N, K) as the device's kernel reads them."""
    if codes.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)  # (N, K / 2)
    tiles = next(n for n in (8, 4, 2) if codes.shape[1] % (16 * n) == 0)
    return torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)


def applies(device, recipe: GenerateRecipe) -> str | None:
    return no_kernel(device, recipe)


def in_effect(run: Run) -> str:
    called, due = kernel_calls(run)
    if called != due:
        raise NotInEffect(f"{called} of {due} products took the int4 kernel")
    return f"groups of {run.recipe.group}, {due // run.new_tokens} products a token"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, linear=Int4, group=GROUPS[0])


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    return {f"{size} a group": replace(recipe, linear=Int4, group=size) for size in GROUPS}

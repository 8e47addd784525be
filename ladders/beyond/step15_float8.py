"""15. float8 products.

Changes: linear layers multiply in 8 bits: e4m3 (3 bits of mantissa) for activations and weights,
e5m2 (2 bits, more range) for gradients. What is stored stays bfloat16, as does a chunked head.
Why faster: FP8 tensor cores multiply at twice the rate of 16 bits, and read half the bytes. The
rung is implemented only for NVIDIA's, from compute capability 8.9 on.
Cost: each operand is scaled by its largest value, so it is read once more. Precision: forward
products also use fast accumulation, which keeps sums in fewer bits in the tensor cores; the
products of the backward pass do not. Look at the loss.
When not: for small layers. For an H100 torchao's table has 0.8 times bfloat16's speed at M, K, N of
1024, 2048, 1024, and 1.4 times at 4096, 8192, 16384.
Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning, arXiv:2209.05433; pytorch/ao,
torchao/float8/README.md (sizes); cuBLAS, CUBLASLT_MATMUL_DESC_FAST_ACCUM.
Expected: -5 to +8 % on an H100 at a width of 768.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import Linear
from common.workloads.train.build import Run
from common.workloads.train.float8_product import Float8Product
from common.workloads.train.recipe import Recipe

CHANGES = ("linear",)
NUMERICS = Numerics.LOWER_PRECISION
CAPABILITY = (8, 9)  # Ada and Hopper are NVIDIA's first with FP8 tensor cores


class Float8Linear(Linear):
    """Multiplies in 8 bits, where tokens, inputs, and outputs are multiples of 16."""

    format = "float8"

    def multiply(self, x: torch.Tensor, weight: torch.Tensor, bias=None) -> torch.Tensor:
        if any(size % 16 for size in (*weight.shape, x.shape[:-1].numel())):  # as _scaled_mm wants
            return super().multiply(x, weight, bias)
        out = Float8Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])
        return out if bias is None else out + bias


def applies(device, recipe: Recipe) -> str | None:
    if device.vendor != "nvidia" or device.capability < CAPABILITY:
        needs = "NVIDIA's FP8 tensor cores, of compute capability 8.9 and up"
        return f"implemented only for {needs}; this is {device.name}"
    if recipe.dtype is not torch.bfloat16:
        return "it builds on bfloat16 (step 5)"
    return None


def in_effect(run: Run) -> str:
    if not any("_scaled_mm" in operator for operator in run.operators):
        raise NotInEffect("no 8-bit product ran")
    return "e4m3, e5m2"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, linear=Float8Linear)

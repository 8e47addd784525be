"""Layers with a weight matrix, as generating uses them: weights are buffers, nothing trains.

Shapes: M rows of activations, K inputs, N outputs of a layer. A subclass keeps the weight in fewer
bits and says which operator multiplies it.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Linear(nn.Module):
    """x W^T + b with the weight in the recipe's dtype, made from a float32 weight (N, K)."""

    format: str | None = None  # of the weight, where it is not the activations'
    operator: str | None = None  # whose kernel must be called once a product; None: any of torch's

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, recipe) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.register_buffer("bias", None if bias is None else bias.to(recipe.dtype))
        self.pack(weight, recipe)

    def pack(self, weight: torch.Tensor, recipe) -> None:
        """Keep the weight (N, K), float32, in this layer's own format."""
        self.register_buffer("weight", self.rounded(weight, recipe))

    @staticmethod
    def rounded(weight: torch.Tensor, recipe) -> torch.Tensor:
        """What a weight (N, K) becomes in this format, without any kernel: the check's reference.

        The format's own numbers, so float64 where they are products of a code and a scale.
        """
        return weight.to(recipe.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., K) to (..., N)."""
        return F.linear(x, self.weight, self.bias)


class Quantised(Linear):
    """A weight in fewer bits. Its kernel takes rows (M, K) and no bias."""

    most_rows: int | None = None  # that the kernel is called for; above, see `many`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)  # (..., K) -> (M, K)
        few = self.most_rows is None or rows.shape[0] <= self.most_rows
        product = (self.multiply if few else self.many)(rows)
        product = product.unflatten(0, x.shape[:-1])  # (M, N) -> (..., N)
        return product if self.bias is None else product + self.bias

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) to (M, N) by the kernel."""
        raise NotImplementedError

    def many(self, rows: torch.Tensor) -> torch.Tensor:
        """The same of a prompt's many rows."""
        raise NotImplementedError


def no_kernel(device, recipe) -> str | None:
    """Why torch's kernels for weights in fewer bits cannot be used on this device, or None."""
    if recipe.dtype is not torch.bfloat16:
        return "torch's kernels for such weights are fast above bfloat16 only (rung 3)"
    if device.type not in ("cpu", "cuda"):  # native_functions.yaml has others for MPS and XPU
        return f"such weights are tried on CPUs and CUDA devices only; this is {device.type}"
    return None


def by_channel(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8, one scale for each output: (N, K) to codes (N, K) int8 and scales (N,).

    The largest magnitude of a channel becomes 127. A channel of zeros has scale 1.
    """
    largest = weight.abs().amax(dim=1)
    scales = torch.where(largest > 0, largest / 127, 1.0)
    codes = (weight / scales[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def in_groups(
    weight: torch.Tensor, group: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """4 bits from a group's least to its largest: codes (N, K) int32 of 0 to 15, and
    (K / group, N, 2) with scale and zero of each group, in the dtype that the kernel reads.

    A weight is (code - 8) scale + zero, as torch's int4 kernels have it; codes are chosen for the
    scale and the zero as rounded to that dtype.
    """
    grouped = weight.unflatten(1, (-1, group))  # (N, K) -> (N, K / group, group)
    least, largest = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
    scale = ((largest - least) / 15).to(dtype).float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (least + 8 * scale).to(dtype).float()
    codes = ((grouped - zero) / scale + 8).round().clamp(0, 15)
    both = torch.cat([scale, zero], dim=-1).transpose(0, 1)  # (N, K/g, 2) -> (K/g, N, 2)
    return codes.flatten(1).to(torch.int32), both.to(dtype).contiguous()


def from_groups(codes: torch.Tensor, both: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of `in_groups`: (N, K) in the dtype."""
    scale, zero = both.to(dtype).transpose(0, 1).unsqueeze(-1).unbind(2)  # (N, K/g, 1) each
    grouped = codes.unflatten(1, (scale.shape[1], -1)).to(dtype)
    return ((grouped - 8) * scale + zero).flatten(1)

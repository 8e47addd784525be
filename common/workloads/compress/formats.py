"""How a weight matrix is kept in a file and in memory, and what multiplies by it.

`store` makes the tensors of a file from a float32 weight (N, K); `dense` says what they stand for,
in float64, without any kernel; an instance is built from them and multiplies. Shapes: M rows of
activations, K inputs, N outputs, G groups in a row.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from common.accelerator.onednn import packs_bfloat16
from common.workloads.compress.grids import Grid

Tensors = Mapping[str, torch.Tensor]


class Format(nn.Module):
    """x W^T + b, and rows of W where it is also an embedding. Weights are buffers."""

    operator: str | None = None  # whose kernel is called once a product; None: any of torch's
    label = ""  # what a record calls it

    @classmethod
    def named(cls, recipe) -> str:
        return cls.label

    @classmethod
    def store(cls, weight: torch.Tensor, recipe, inputs) -> dict[str, torch.Tensor]:
        """What a file keeps of a weight. `inputs`: makes the statistics of what it reads."""
        raise NotImplementedError

    @classmethod
    def dense(cls, tensors: Tensors) -> torch.Tensor:
        """The weight (N, K), float64, that the file's tensors stand for."""
        raise NotImplementedError

    def __init__(self, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Subclasses are built from the file's tensors, too, and told whether rows are read of
        them and whether they multiply: an embedding does the one, and, as the head, both.
        """
        super().__init__()
        self.dtype = dtype
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N)."""
        product = self.multiply(x.flatten(0, -2)).unflatten(0, x.shape[:-1])  # (M, N) -> (..., N)
        return product if self.bias is None else product + self.bias

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) to (M, N)."""
        raise NotImplementedError

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows (..., K) of the weight, in the activations' format."""
        raise NotImplementedError


def runs(kernel: str, call) -> bool:
    """Whether torch has this kernel here: it is called once. What it then does is for the check."""
    try:
        call(getattr(torch.ops.aten, kernel))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


class Plain(Format):
    """The weight in the activations' format; on a CPU 16-bit ones also as oneDNN reads them.

    An embedding that is the head as well is then there twice: its rows are read, too.
    """

    label = "plain"

    @classmethod
    def store(cls, weight, recipe, inputs):
        return {"weight": weight.to(recipe.dtype)}

    @classmethod
    def dense(cls, tensors):
        return tensors["weight"].double()

    def __init__(self, tensors, bias, dtype, reads: bool = False, multiplies: bool = True) -> None:
        super().__init__(bias, dtype)
        weight = self.dense(tensors).to(dtype)
        packs = multiplies and weight.device.type == "cpu" and dtype is torch.bfloat16
        packs = packs and packs_bfloat16()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None) if packs else None
        self.register_buffer("packed", packed)
        self.register_buffer("weight", weight if reads or not packs else None)
        self.operator = "mkldnn::_linear_pointwise" if packs else None

    def forward(self, x):
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def rows(self, ids):
        return F.embedding(ids, self.weight)


class Coded(Format):
    """Codes and the grid that they are on. A subclass says which grid fits a weight."""

    @classmethod
    def fit(cls, weight: torch.Tensor, recipe) -> Grid:
        """The grid for a weight (N, K), before its scales are rounded for the file."""
        raise NotImplementedError

    @classmethod
    def columns(cls, weight: torch.Tensor, recipe) -> int:
        """How many neighbours in a row share a scale."""
        return weight.shape[1]

    @classmethod
    def store(cls, weight, recipe, inputs):
        return cls.packed(*recipe.rounding.choose(cls, weight, recipe, inputs), inputs)

    @classmethod
    def packed(cls, grid: Grid, codes: torch.Tensor, inputs) -> dict[str, torch.Tensor]:
        """Grid and codes as a file keeps them."""
        raise NotImplementedError

    @classmethod
    def grid(cls, tensors: Tensors) -> tuple[Grid, torch.Tensor]:
        """The inverse of `packed`; the codes are float64."""
        raise NotImplementedError

    @classmethod
    def dense(cls, tensors):
        grid, codes = cls.grid(tensors)
        return grid.values(codes)

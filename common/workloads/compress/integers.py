"""Matrices of whole numbers: 8 bits, 8 bits with 8-bit activations, and 4 bits in groups.

Shapes: M rows of activations, K inputs, N outputs, G groups in a row.
"""

import torch
from torch.nn import functional as F

from common.accelerator.onednn import multiplies_int8
from common.workloads.compress.formats import Coded, runs
from common.workloads.compress.grids import STORED, Grid, even, pack, unpack


class Int8(Coded):
    """A code a byte, and one scale for the matrix or one for each output; a centre if it is not 0.

    The kernel has no centre: what it stands for is taken off through the sum of the activations.
    """

    kernel, label = "_weight_int8pack_mm", "int8"
    most_rows = 12  # for more, dequantising was faster on a CPU (LOG.md, inference)

    @classmethod
    def packed(cls, grid, codes, inputs):
        centred = {"centre": grid.centre[:, 0].to(torch.uint8)} if grid.least == 0 else {}
        kind = torch.uint8 if centred else torch.int8
        return {"codes": codes.to(kind), "scale": grid.scale[:, 0].to(STORED), **centred}

    @classmethod
    def grid(cls, tensors):
        scale = tensors["scale"].double()[:, None]
        zero = torch.zeros_like(scale)
        ends = (0, 255) if "centre" in tensors else (-127, 127)
        centre = tensors["centre"].double()[:, None] if "centre" in tensors else zero
        return Grid(scale, centre, zero, *ends), tensors["codes"].double()

    def __init__(self, tensors, bias, dtype, reads: bool = False, multiplies: bool = True) -> None:
        super().__init__(bias, dtype)
        codes, centre = tensors["codes"], tensors.get("centre")
        if centre is not None:  # the kernel reads signed codes
            codes, centre = (codes.short() - 128).to(torch.int8), centre.to(dtype) - 128
        scales = tensors["scale"].to(dtype).expand(len(codes)).contiguous()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("shift", None if centre is None else -scales * centre)
        row = codes.new_zeros(1, codes.shape[1], dtype=dtype)
        if runs(self.kernel, lambda kernel: kernel(row, codes, scales)):
            self.operator = f"aten::{self.kernel}"

    def multiply(self, rows):
        if self.operator and len(rows) <= self.most_rows:
            product = torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.scales)
        else:
            product = F.linear(rows, self.codes.to(rows.dtype)) * self.scales
        if self.shift is None:
            return product
        return product + self.shift * rows.sum(dim=-1, keepdim=True)

    def rows(self, ids):
        found = self.codes[ids].to(self.dtype) * self.scales[ids, None]
        return found if self.shift is None else found + self.shift[ids, None]


class Int8Both(Int8):
    """Activations are 8-bit integers, too: one scale for all, from calibration.

    On CPUs oneDNN multiplies, scales, and adds the bias in one call, from codes in its own layout.
    It has a fast kernel for unsigned activations only: they are shifted. CPUs whose sums it would
    cut take torch's own product, as GPUs do: exact, and slower there than float32's.
    """

    label = "int8 x int8"
    shift_by = 128
    least_rows = 17  # of _int_mm on NVIDIA GPUs

    @classmethod
    def packed(cls, grid, codes, inputs):
        scale = (inputs().largest.amax() / 127).clamp(min=1e-12).reshape(1)
        return super().packed(grid, codes, inputs) | {"input_scale": scale}

    def __init__(self, tensors, bias, dtype, reads: bool = False, multiplies: bool = True) -> None:
        super().__init__(tensors, bias, dtype)
        self.register_buffer("input_scale", tensors["input_scale"])
        self.scales = self.scales.float() * self.input_scale  # of the integer product
        self.operator, self.centres = "aten::_int_mm", None
        if self.codes.device.type == "cpu" and multiplies_int8():
            self.operator = "onednn::qlinear_pointwise"
            self.centres = torch.zeros(len(self.codes), dtype=torch.long)  # all codes have 0
            self.codes = torch.ops.onednn.qlinear_prepack(self.codes, None)

    def forward(self, x):
        if self.centres is None:
            return super().forward(x)
        shifted = quantised_inputs(x, self.input_scale).add_(self.shift_by).to(torch.uint8)
        both = (shifted, 1.0, self.shift_by, self.codes, self.scales, self.centres, self.bias)
        as_it_is = (1.0, 0, self.dtype, "none", [], "")  # scale and centre of the output, no more
        return torch.ops.onednn.qlinear_pointwise(*both, *as_it_is)

    def multiply(self, rows):
        whole = quantised_inputs(rows, self.input_scale).to(torch.int8)
        if rows.is_cuda:
            whole = F.pad(whole, (0, 0, 0, max(0, self.least_rows - len(rows))))
        product = torch._int_mm(whole, self.codes.t())[: len(rows)]
        return (product * self.scales).to(self.dtype)


def quantised_inputs(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Activations as whole numbers of -127 to 127, in their own format; larger ones are cut."""
    return (rows / scale.to(rows.dtype)).round().clamp(-127, 127)


class Int4(Coded):
    """Up to 4 bits a code, from a group's least weight to its largest: a scale and an offset each.

    The offset is that of code 8, as torch's int4 kernels have it. Their codes are packed so that
    they cannot be read; an embedding has others beside them.
    """

    label = "int4"
    multiple = 16  # of outputs, which the kernel for CPUs wants
    kernels = {"cpu": "_weight_int4pack_mm_for_cpu", "cuda": "_weight_int4pack_mm"}
    centre = 8

    @classmethod
    def named(cls, recipe):
        return f"int{recipe.bits}, groups of {recipe.group}"

    @classmethod
    def columns(cls, weight, recipe):
        return recipe.group

    @classmethod
    def fit(cls, weight, recipe):
        grouped = weight.unflatten(1, (-1, recipe.group))  # (N, K) -> (N, G, K / G)
        least, most = grouped.amin(dim=-1), grouped.amax(dim=-1)
        scale = even(least, most, 2**recipe.bits)
        centre = torch.full_like(scale, cls.centre)
        return Grid(scale, centre, least + centre * scale, 0, 2**recipe.bits - 1)

    @classmethod
    def packed(cls, grid, codes, inputs):
        bits = grid.most.bit_length()
        both = torch.stack([grid.scale, grid.offset], dim=-1).to(STORED)  # (N, G, 2)
        shape = torch.tensor([*codes.shape, bits], dtype=torch.int32, device=codes.device)
        packed = pack(codes, bits)
        return {"codes": packed, "both": both, "shape": shape.view(torch.uint8)}

    @classmethod
    def grid(cls, tensors):
        outputs, inputs, bits = tensors["shape"].view(torch.int32).tolist()
        scale, offset = tensors["both"].double().unbind(-1)
        codes = unpack(tensors["codes"], bits, (outputs, inputs)).double()
        return Grid(scale, torch.full_like(scale, cls.centre), offset, 0, 2**bits - 1), codes

    def __init__(self, tensors, bias, dtype, reads: bool = False, multiplies: bool = True) -> None:
        super().__init__(bias, dtype)
        self.outputs, inputs, bits = tensors["shape"].view(torch.int32).tolist()
        codes, both = unpack(tensors["codes"], bits, (self.outputs, inputs)), tensors["both"]
        self.group = inputs // both.shape[1]
        self.register_buffer("table", pack(codes, 4).view(self.outputs, -1) if reads else None)
        padding = -self.outputs % self.multiple
        padded = F.pad(both.to(dtype), (0, 0, 0, 0, 0, padding)).transpose(0, 1).contiguous()
        self.register_buffer("both", padded)  # (G, N, 2)
        self.kernel = self.kernels.get(codes.device.type, "none")
        row = codes.new_zeros(1, inputs, dtype=dtype)

        def call(kernel) -> None:
            self.codes = for_kernel(F.pad(codes, (0, 0, 0, padding)))
            kernel(row, self.codes, self.group, self.both)

        self.register_buffer("codes", codes if multiplies else None)
        if multiplies and runs(self.kernel, call):
            self.operator = f"aten::{self.kernel}"
        elif multiplies:
            self.codes = codes

    def multiply(self, rows):
        if self.operator is None:
            return F.linear(rows, self.weights(self.codes, slice(self.outputs)))
        kernel = getattr(torch.ops.aten, self.kernel)
        return kernel(rows, self.codes, self.group, self.both)[:, : self.outputs]

    def rows(self, ids):
        packed = self.table[ids]  # (..., K / 2), two codes a byte
        codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
        return self.weights(codes, ids)

    def weights(self, codes: torch.Tensor, which) -> torch.Tensor:
        """(..., K) of codes (..., K), in the rows `which`."""
        both = self.both[:, which].movedim(0, -2).unsqueeze(-2)  # (..., G, 1, 2)
        grouped = codes.unflatten(-1, (-1, self.group)).to(self.dtype)  # (..., G, K / G)
        return ((grouped - self.centre) * both[..., 0] + both[..., 1]).flatten(-2)


def for_kernel(codes: torch.Tensor) -> torch.Tensor:
    """Codes (N, K) uint8 as the device's int4 kernel reads them."""
    if codes.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]  # (N, K / 2)
    tiles = next(n for n in (8, 4, 2) if codes.shape[1] % (16 * n) == 0)
    return torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)

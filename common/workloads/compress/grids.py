"""The numbers that a weight may have in few bits, and codes for them in few bytes.

Shapes: N outputs and K inputs of a matrix, G groups of neighbours in a row (K / G columns each).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

STORED = torch.bfloat16  # the format of scales and offsets in files


@dataclass(frozen=True, eq=False)
class Grid:
    """A weight is scale (code - centre) + offset. Each is (N, G), or has 1 for N: for all rows."""

    scale: torch.Tensor
    centre: torch.Tensor  # a code: of zero, where there is no offset
    offset: torch.Tensor
    least: int  # codes are whole numbers from here
    most: int  # to there

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest codes of a weight (N, K), as whole numbers in its own format."""
        scale, centre, offset = (part.unsqueeze(-1) for part in self.parts(weight.dtype))
        grouped = weight.unflatten(1, (self.scale.shape[1], -1))  # (N, K) -> (N, G, K / G)
        codes = ((grouped - offset) / scale).round() + centre
        return codes.clamp(self.least, self.most).flatten(1)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """The weights (N, K) that codes stand for, in the format of the codes."""
        scale, centre, offset = (part.unsqueeze(-1) for part in self.parts(codes.dtype))
        grouped = codes.unflatten(1, (self.scale.shape[1], -1))
        return ((grouped - centre) * scale + offset).flatten(1)

    def stored(self) -> "Grid":
        """Scales and offsets rounded to what a file keeps of them; codes are chosen for these."""
        scale = self.scale.to(STORED).to(self.scale.dtype)
        offset = self.offset.to(STORED).to(self.offset.dtype)
        return replace(self, scale=scale, offset=offset)

    def parts(self, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        return self.scale.to(dtype), self.centre.to(dtype), self.offset.to(dtype)


def even(least: torch.Tensor, most: torch.Tensor, codes: int) -> torch.Tensor:
    """The scale with which so many codes reach from the least weight to the largest.

    1 where there is one value only, and nothing to divide by.
    """
    scale = (most - least) / (codes - 1)
    return torch.where(scale > 0, scale, 1.0)


def symmetric(largest: torch.Tensor) -> Grid:
    """8 bits, of which -128 is not used; the largest magnitude, (N or 1, G), has code 127."""
    scale = even(-largest, largest, 255)
    return Grid(scale, torch.zeros_like(scale), torch.zeros_like(scale), -127, 127)


def joined(grids: Sequence[Grid]) -> Grid:
    """Grids of neighbouring columns as one."""
    first = grids[0]
    parts = zip(*(grid.parts(grid.scale.dtype) for grid in grids), strict=True)
    whole = (torch.cat(part, dim=1) for part in parts)
    return Grid(*whole, first.least, first.most)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Whole numbers from 0 to 2^bits - 1, in any shape, one bit after the other: uint8."""
    flat = codes.reshape(-1).to(torch.uint8)
    places = torch.arange(bits, dtype=torch.uint8, device=flat.device)
    each = ((flat[:, None] >> places) & 1).flatten()
    each = torch.cat([each, each.new_zeros(-len(each) % 8)]).view(-1, 8)
    return (each << torch.arange(8, dtype=torch.uint8, device=flat.device)).sum(
        1, dtype=torch.uint8
    )


def unpack(packed: torch.Tensor, bits: int, shape: Sequence[int]) -> torch.Tensor:
    """The inverse of `pack`: uint8 of the shape."""
    count = torch.Size(shape).numel()
    eight = torch.arange(8, dtype=torch.uint8, device=packed.device)
    each = ((packed[:, None] >> eight) & 1).flatten()[: count * bits].view(count, bits)
    return (each << eight[:bits]).sum(1, dtype=torch.uint8).view(*shape)

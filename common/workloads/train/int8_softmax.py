"""The softmax in place of logits from 8-bit products, for CPUs' vector units: beyond's rung 10.

Shapes: N tokens, C model width, V vocabulary.
"""

import torch
from torch import Tensor

from common.accelerator.loops import compiled
from common.workloads.train.softmax_in_place import like_loss_of, loss_of, put

# A factor is not below this: then the least 32-bit integer, which stands at the target while the
# others are summed up, is a logit of -21 or less beside a top of nearly 0
LEAST = 1e-4
PART = 256  # tokens whose 32-bit products are there at once, beside the powers in 16 bits


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, C) in 8 bits, the largest of a row 127, and the rows' factors (N,) that undo it."""
    factor = (x.abs().amax(dim=-1).float() / 127).clamp_min(LEAST)
    return torch.round(x / factor[:, None]).to(torch.int8), factor


def powers_(products: Tensor, into: Tensor | None, rows: Tensor, columns: Tensor, wanted: Tensor):
    """e^(logit - top) of (n, V) int32, written into `into`, or as float32's bits over the products.

    A logit is the product times its row's factor, (n, 1), and its column's, (V,). Returns the sum
    of the powers and top, (n, 1).
    """
    logits = products * columns * rows
    top = torch.maximum(logits.amax(dim=-1, keepdim=True), wanted)
    powers = (logits - top).exp()
    if into is None:
        products.copy_(powers.view(torch.int32))
    else:
        into.copy_(powers)
    return powers.sum(dim=-1, keepdim=True), top


COMPILED = compiled(rounded), compiled(powers_)


@torch.library.custom_op("ladder::int8_softmax_in_place", mutates_args=())
def int8_softmax_in_place(
    hidden: Tensor, weight: Tensor, targets: Tensor, in_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`loss_of` the logits hidden (N, C) @ weight.T (V, C), multiplied in 8 bits."""
    to_8_bits, to_powers = COMPILED if in_graph else (rounded, powers_)
    (small, factors), (weights, columns) = to_8_bits(hidden), to_8_bits(weight)
    powers = hidden.new_empty(len(hidden), len(weight))
    in_place = hidden.dtype is torch.float32  # as wide as a product
    products = None if in_place else torch.empty_like(powers[:PART], dtype=torch.int32)
    never = weights.new_full((), torch.iinfo(torch.int32).min, dtype=torch.int32)

    def of_part(small: Tensor, factors: Tensor, targets: Tensor, into: Tensor):
        at, factor = targets[:, None], factors[:, None]
        bits = into.view(torch.int32) if in_place else products[: len(at)]
        torch._int_mm(small, weights.T, out=bits)
        wanted = bits.gather(-1, at) * columns[at] * factor
        put(bits, targets, never)
        others, top = to_powers(bits, None if in_place else into, factor, columns, wanted)
        return others, wanted, top

    parts = map(of_part, *(whole.split(PART) for whole in (small, factors, targets, powers)))
    return loss_of(powers, *map(torch.cat, zip(*parts, strict=True)), targets)


int8_softmax_in_place.register_fake(like_loss_of)

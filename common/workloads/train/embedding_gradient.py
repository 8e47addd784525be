"""The gradient of an embedding, from the rows that were read: beyond's rung 8.

Shapes: N tokens, C model width, V vocabulary.
"""

import torch
from torch import Tensor


@torch.library.custom_op("ladder::embedding_gradient", mutates_args=())
def embedding_gradient(gradient: Tensor, ids: Tensor, rows: int) -> Tensor:
    """Gradients (N, C) of what ids (N,) read, to that of the table, (rows, C)."""
    read, place = ids.unique(return_inverse=True)
    precise = torch.promote_types(gradient.dtype, torch.float32)
    sums = gradient.new_zeros(len(read), gradient.shape[-1], dtype=precise)
    sums.index_add_(0, place, gradient.to(precise))
    table = gradient.new_zeros(rows, gradient.shape[-1])
    table[read] = sums.to(table.dtype)
    return table


@embedding_gradient.register_fake
def like_gradient(gradient, ids, rows):
    return gradient.new_empty(rows, gradient.shape[-1])


class Read(torch.autograd.Function):
    """Rows of a table, (V, C), by ids, (B, T)."""

    @staticmethod
    def forward(ctx, table, ids):
        ctx.save_for_backward(ids)
        ctx.rows = len(table)
        return table[ids]

    @staticmethod
    def backward(ctx, gradient):
        (ids,) = ctx.saved_tensors
        return embedding_gradient(gradient.flatten(0, 1), ids.flatten(), ctx.rows), None

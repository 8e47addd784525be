"""8. Rows that were read.

Changes: the gradient of the token embedding. The rows of tokens that occur are summed up by
themselves, in float32, and written into a table of zeros in the parameters' format.
Why faster: compiled, the table of all V rows is made in float32, added to, and converted. That
passes over 10 bytes for each of its numbers, where 2 do, and a batch reads few of the rows.
Cost: finding out which tokens occur, some microseconds.
When not: for a vocabulary of bytes, whose table is small.
Source: PyTorch, nn.functional.embedding (what it calls dense and sparse gradients).
Expected: 3 % at GPT-2's size and one window of 256 tokens; less where a batch has more tokens.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("embedding",)
NUMERICS = Numerics.ROUNDING


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


class Embedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, C)
        return Read.apply(self.weight, ids)


def applies(device, recipe: Recipe) -> str | None:
    return None if device.type == "cpu" else f"measured on CPUs only; this is {device.type}"


def in_effect(run: Run) -> str:
    if "ladder::embedding_gradient" not in run.operators:
        raise NotInEffect("the embedding's gradient was made as before")
    return "rows by themselves"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, embedding=Embedding)

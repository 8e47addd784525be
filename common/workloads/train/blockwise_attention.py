"""Causal attention as matrix products over blocks of queries, for CPUs.

Shapes: B windows, H heads, T tokens, D head width, G = B H, R queries in a block, K keys that the
block's last query may look at.
"""

import math

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, rows: int) -> Tensor:
    """Three (B, H, T, D) tensors to one, `rows` queries at a time."""
    found = Attention.apply(*(x.flatten(0, 1) for x in (query, key, value)), rows)
    return found.view_as(query)


class Attention(torch.autograd.Function):
    """Three (G, T, D) tensors to one. Each block's weights are kept."""

    @staticmethod
    def forward(ctx, query, key, value, rows: int):
        found, weights = attention(query, key, value, rows)
        ctx.save_for_backward(query, key, value, weights)
        ctx.rows = rows
        return found

    @staticmethod
    def backward(ctx, gradient):
        return *gradients(gradient, *ctx.saved_tensors, ctx.rows), None


def blocks(query: Tensor, rows: int) -> list[tuple[slice, slice, slice, tuple[int, int, int]]]:
    """Of each block its queries, the keys that they see, where its weights lie, and their size."""
    (groups, tokens, _), found, at = query.shape, [], 0
    for begin in range(0, tokens, rows):
        end = min(begin + rows, tokens)
        size = groups, end - begin, end
        found.append((slice(begin, end), slice(end), slice(at, at + math.prod(size)), size))
        at += math.prod(size)
    return found


def hide_future_(scores: Tensor) -> None:
    """Scores (G, R, K), whose last R keys are those of the block itself."""
    rows = scores.shape[-2]
    scores[..., -rows:] += scores.new_full((rows, rows), -torch.inf).triu(diagonal=1)


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """To (G, K, D) what (G, R, K), transposed, makes of (G, R, D)."""
    if total.dtype is left.dtype:
        total.baddbmm_(left.mT, right)
    else:
        total += (right.mT @ left).mT  # in 16 bits faster than left.mT @ right


# operators, since the compiler would take the softmax apart, into slower loops
@torch.library.custom_op("ladder::blockwise_attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """What queries (G, T, D) attend to, (G, T, D), and the weights of all blocks, flat."""
    found, weights = like_attention(query, key, value, rows)
    query = query / math.sqrt(query.shape[-1])
    for own, seen, part, size in blocks(query, rows):
        block = torch.bmm(query[:, own], key[:, seen].mT, out=weights[part].view(size))
        hide_future_(block)
        torch.softmax(block, dim=-1, out=block)
        found[:, own] = block @ value[:, seen]
    return found, weights


@attention.register_fake
def like_attention(query, key, value, rows):
    return query.new_empty(query.shape), query.new_empty(blocks(query, rows)[-1][2].stop)


@torch.library.custom_op("ladder::blockwise_attention_gradients", mutates_args=())
def gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, weights: Tensor, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key, and value, (G, T, D) each; keys' and values' add up in 32 bits at least."""
    precise = torch.promote_types(query.dtype, torch.float32)
    of_query = query.new_empty(query.shape)
    of_key, of_value = (x.new_zeros(x.shape, dtype=precise) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1])
    parts = blocks(query, rows)
    space = query.new_empty(max(math.prod(size) for *_, size in parts))  # every block's, in turn
    for own, seen, part, size in parts:
        block, scores = weights[part].view(size), space[: math.prod(size)].view(size)
        add_product_(of_value[:, seen], block, gradient[:, own])
        torch.bmm(gradient[:, own], value[:, seen].mT, out=scores)
        torch._softmax_backward_data(scores, block, -1, block.dtype, grad_input=scores)
        of_query[:, own] = (scores @ key[:, seen]) * scale
        add_product_(of_key[:, seen], scores, query[:, own])
    return of_query, (of_key * scale).to(key.dtype), of_value.to(value.dtype)


@gradients.register_fake
def like_gradients(gradient, query, key, value, weights, rows):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))

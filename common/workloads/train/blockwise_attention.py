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


# operators, since the compiler would take the softmax apart, into slower loops
@torch.library.custom_op("ladder::blockwise_attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """What queries (G, T, D) attend to, (G, T, D), and the weights of all blocks, flat."""
    found, weights = like_attention(query, key, value, rows)
    query = query / math.sqrt(query.shape[-1])
    for own, seen, part, size in blocks(query, rows):
        scores = query[:, own] @ key[:, seen].mT
        hide_future_(scores)
        block = torch.softmax(scores, dim=-1, out=weights[part].view(size))
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
    for own, seen, part, size in blocks(query, rows):
        block = weights[part].view(size)
        of_value[:, seen] += (gradient[:, own].mT @ block).mT  # faster than block.mT @ …
        of_block = gradient[:, own] @ value[:, seen].mT
        of_scores = torch._softmax_backward_data(of_block, block, -1, block.dtype)
        of_query[:, own] = (of_scores @ key[:, seen]) * scale
        of_key[:, seen] += (query[:, own].mT @ of_scores).mT
    return of_query, (of_key * scale).to(key.dtype), of_value.to(value.dtype)


@gradients.register_fake
def like_gradients(gradient, query, key, value, weights, rows):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))

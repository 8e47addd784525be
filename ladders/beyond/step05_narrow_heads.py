"""5. Narrow heads.

Changes: attention is written out in single multiplications and additions, and compiled: scores,
softmax, and weighted values of a query become one loop over its keys.
Why faster: a fused kernel computes scores as matrix products over the D columns of a head. At a D
of 8 or 16 these are small, and the work around them takes longer. The loop holds the scores of 16
keys in one AVX-512 register, and stores only sums. If the lengths of queries and keys bound all
scores, no row's maximum is needed.
Cost: 9 D multiply-adds per score, forward and backward, where a fused kernel needs 7 D; no matrix
unit helps with them. Three loops are compiled for each quarter of the queries.
When not: on GPUs, or for wide heads. Up to 32 columns both ways are measured.
Source: Milakov, Gimelshein 2018, Online normalizer calculation for softmax, arXiv:1805.02867 (what
a row needs); Dao 2023, FlashAttention-2, arXiv:2307.08691 (the backward pass).
Expected: attention in half its time at a D of 8, so 1.2 times on a CPU.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from common.accelerator.compiler import missing_compiler
from common.engine.contract import DoesNotApply, NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from ladders.beyond.loops import compiled, power_of_2
from ladders.beyond.step04_fused_qkv import FusedProjection

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING
WIDEST = 32  # columns: a loop holds a sum for each, and the compiler takes as long as they are many
QUARTERS = 4  # blocks of queries: a block reads no key after its last query
APART = 16  # numbers between rows of T: rows 4 KiB apart evict one another from the caches
BOUND = 60.0  # scores to base 2 within it have powers, and sums of them, that float32 can hold


# N heads of all windows (B H), D head width, T tokens, I queries, J keys. All is float32, scores to
# base 2. P is T and APART more, which nobody reads.


def products(left: Tensor, right: Tensor, start: Tensor | float = 0.0) -> Tensor:
    """(N, D, I) and (N, D, J): `start`, and every column's product with every other, (N, I, J)."""
    columns = zip(left.unbind(1), right.unbind(1), strict=True)
    return sum((a[..., None] * b[:, None] for a, b in columns), start)


def weights(scores: Tensor, seen: Tensor) -> Tensor:
    """Attention weights (N, I, J) of scores that the logarithm of their sum was taken from."""
    return torch.where(seen, power_of_2(scores), 0.0)


def weighted(weight: Tensor, values: Tensor) -> list[Tensor]:
    """(N, I, J) weights of (N, D, J) values, summed over J: D times (N, I)."""
    return [(weight * column[:, None]).sum(-1) for column in values.unbind(1)]


def attended(query, key, value_and_one, at, keys_at, bounded: bool):
    """A block of queries: their outputs (N, D, I), and the logarithms of their sums (N, I).

    A row's largest score is taken from all before they become powers, unless they are bounded.
    """
    seen, top = keys_at <= at[:, None], 0.0
    if not bounded:
        top = torch.where(seen, products(query, key), -torch.inf).amax(-1)
    scores = products(query, key, 0.0 if bounded else -top[..., None])
    *sums, total = weighted(weights(scores, seen), value_and_one)
    return torch.stack(sums, 1) / total[:, None], top + total.log2()


def query_gradient(query, key, value, out_grad, less, share, at, keys_at):
    """A block of queries: the gradient of each, (N, D, I).

    (N, I) `less`: the logarithm of a query's sum, negative; `share`: out . out_grad, negative.
    """
    weight = weights(products(query, key, less[..., None]), keys_at <= at[:, None])
    scores_grad = weight * products(out_grad, value, share[..., None])
    return torch.stack(weighted(scores_grad, key), 1)


def key_value_gradients(key, value, query, out_grad, less, share, at, queries_at):
    """A block of keys, and the queries from there on: gradients of both, one after the other."""
    weight = weights(products(key, query, less[:, None]), at[:, None] <= queries_at)
    scores_grad = weight * products(value, out_grad, share[:, None])
    return torch.stack([*weighted(scores_grad, query), *weighted(weight, out_grad)], 1)


LOOPS = (attended, query_gradient, key_value_gradients)
COMPILED = tuple(compiled(loop) for loop in LOOPS)


def quarters(tokens: int) -> Iterator[tuple[int, int]]:
    size = max(16, math.ceil(tokens / QUARTERS))  # a register's width at least
    return ((begin, min(begin + size, tokens)) for begin in range(0, tokens, size))


def positions(query: Tensor) -> Tensor:
    """(T,) of a tensor (N, D, P)."""
    return torch.arange(query.shape[-1] - APART, dtype=torch.float32)


def spaced(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks (..., I) of T tokens in all, one after the other, and APART zeros: (..., P)."""
    rest = blocks[0].new_zeros(*blocks[0].shape[:-1], APART)
    return torch.cat((*blocks, rest), -1)


# one operator for the compiler around it, which would otherwise unroll every layer's loops


@torch.library.custom_op("ladder::scaled_dot_product_fused_narrow", mutates_args=())
def narrow(query: Tensor, key: Tensor, value: Tensor, in_graph: bool) -> tuple[Tensor, Tensor]:
    """Causal attention of (N, D, P) tensors, the queries scaled; also (N, P) of its sums."""
    loop = (COMPILED if in_graph else LOOPS)[0]
    at = positions(query)
    value_and_one = F.pad(value, (0, 0, 0, 1), value=1.0)  # whose weighted sum is that of weights
    longest = query.square().sum(1).amax() * key.square().sum(1).amax()
    bounded = bool(longest < BOUND**2)  # |q . k| <= |q| |k|
    blocks = [
        loop(query[..., a:b], key[..., :b], value_and_one[..., :b], at[a:b], at[:b], bounded)
        for a, b in quarters(len(at))
    ]
    out, total = zip(*blocks, strict=True)
    return spaced(out), spaced(total)


@torch.library.custom_op("ladder::scaled_dot_product_fused_narrow_backward", mutates_args=())
def narrow_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    grad: Tensor,
    in_graph: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key, and value, (N, D, P) each."""
    _, of_query, of_key_value = COMPILED if in_graph else LOOPS
    at = positions(query)
    end = len(at)
    less, share = -total, -(out * grad).sum(1)
    query_grad, key_value_grad = [], []
    for a, b in quarters(end):
        rows = (grad[..., a:b], less[..., a:b], share[..., a:b], at[a:b])
        query_grad.append(of_query(query[..., a:b], key[..., :b], value[..., :b], *rows, at[:b]))
        rest = (query[..., a:end], grad[..., a:end], less[..., a:end], share[..., a:end])
        key_value_grad.append(of_key_value(key[..., a:b], value[..., a:b], *rest, at[a:b], at[a:]))
    key_grad, value_grad = spaced(key_value_grad).chunk(2, 1)
    base = math.log(2)  # scores are to base 2
    return spaced(query_grad) * base, key_grad * base, value_grad.clone()


@narrow.register_fake
def _(query, key, value, in_graph):
    return torch.empty_like(query), query.new_empty(query.shape[0], query.shape[-1])


@narrow_backward.register_fake
def _(query, key, value, out, total, grad, in_graph):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.in_graph = inputs[3]


def backward(ctx, grad, _):
    return *narrow_backward(*ctx.saved_tensors, grad.contiguous(), ctx.in_graph), None


narrow.register_autograd(backward, setup_context=keep)


class NarrowHeads(FusedProjection):
    """The same parameters; attention in vector registers, tokens last. Without dropout."""

    def __init__(self, emb_dim: int, heads: int, *arguments) -> None:
        super().__init__(emb_dim, heads, *arguments)
        if emb_dim // heads > WIDEST:
            raise DoesNotApply(f"heads have {emb_dim // heads} columns, more than {WIDEST}")

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        weights = torch.cat((self.W_query.weight, self.W_key.weight, self.W_value.weight))
        x_in, weights = self.W_query.operands(x, weights)
        parts = (weights @ x_in.transpose(1, 2)).float()  # (B, 3 C, T): no copy turns it
        parts = F.pad(parts, (0, APART))
        query, key, value = parts.unflatten(1, (3, self.heads, -1)).transpose(0, 1).flatten(1, 2)
        query = query * (math.log2(math.e) / math.sqrt(query.shape[1]))  # (B H, D, P)
        out, _ = narrow(query, key, value, torch.compiler.is_compiling())
        out = out[..., :-APART].unflatten(0, (len(x), -1))  # (B, H, D, T)
        context = out.flatten(1, 2).transpose(1, 2)  # (B, T, C)
        return self.out_proj(context.to(x.dtype))


def applies(device, recipe: Recipe) -> str | None:
    if device.type != "cpu":
        return f"these loops are for the vector registers of a CPU; this device is {device.type}"
    if recipe.attention is not FusedProjection:
        return "it builds on the fused QKV projection (rung 4)"
    return missing_compiler(device)


def in_effect(run: Run) -> str:
    if run.recipe.attention is not NarrowHeads:
        return "fused kernel"
    if "ladder::scaled_dot_product_fused_narrow" not in run.operators:
        raise NotInEffect("the loops did not run")
    return f"{run.shape.emb_dim // run.shape.heads} columns"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=NarrowHeads)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {"written out": apply(recipe), "fused kernel": recipe}

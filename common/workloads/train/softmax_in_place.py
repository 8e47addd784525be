"""Logits that become their own gradient, in place: the head and its loss, written for CPUs.

Shapes: N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.accelerator.loops import compiled
from common.gpt.model import LogitsLoss

COLUMNS = 2048  # of logits at a time, where MKL multiplies: 50,304 at once take it longer


def logits_of(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden (N, C) @ weight.T (V, C)."""
    if hidden.dtype.itemsize < 4:  # oneDNN multiplies
        return hidden @ weight.T
    logits = hidden.new_empty(len(hidden), len(weight))
    for part, rows in zip(logits.split(COLUMNS, 1), weight.split(COLUMNS), strict=True):
        torch.mm(hidden, rows.T, out=part)
    return logits


def put(rows: Tensor, at: Tensor, values: Tensor) -> None:
    """One of `values`, (n,) or (), into each of the rows (n, V) at (n,), in place."""
    places = torch.arange(len(rows), device=rows.device), at
    rows.index_put_(places, values.to(rows.dtype))  # scatter_ copies all rows if they have 16 bits


def powers_(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, V) become e^(logit - top) in place. Returns their sum and top, (n, 1)."""
    precise = logits.to(wanted.dtype)
    top = torch.maximum(precise.amax(dim=-1, keepdim=True), wanted)
    powers = (precise - top).exp().to(logits.dtype)
    logits.copy_(powers)
    return powers.to(wanted.dtype).sum(dim=-1, keepdim=True), top


COMPILED = compiled(powers_)


def loss_of(
    powers: Tensor, others: Tensor, wanted: Tensor, top: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss, (), the powers (N, V), and for each token what divides them, (N, 1).

    Divided, they are the gradient of the logits. `others`: the sum of each token's powers without
    its target's, whose logit is `wanted`; `top`: what was subtracted from all; each (N, 1).
    """
    total = others + (wanted - top).exp()
    # the gradient is the softmax less 1 at the target. That difference would cancel, the sum of
    # all others does not
    put(powers, targets, -others[:, 0])
    return (top + total.log() - wanted).mean(), powers, total * len(powers)


# one operator for the compiler around it, which would otherwise keep logits and powers
@torch.library.custom_op("ladder::softmax_in_place", mutates_args=())
def softmax_in_place(
    hidden: Tensor, weight: Tensor, targets: Tensor, in_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`loss_of` the logits hidden (N, C) @ weight.T (V, C), for targets (N,)."""
    logits, at = logits_of(hidden, weight), targets[:, None]
    wanted = logits.gather(-1, at).to(torch.promote_types(logits.dtype, torch.float32))
    put(logits, targets, logits.new_full((), -torch.inf))
    others, top = (COMPILED if in_graph else powers_)(logits, wanted)
    return loss_of(logits, others, wanted, top, targets)


def like_loss_of(hidden, weight, *_):
    """Tensors of the kind that `loss_of` returns, for the compiler."""
    precise = torch.promote_types(hidden.dtype, torch.float32)
    loss, divisor = (hidden.new_empty(size, dtype=precise) for size in ((), (len(hidden), 1)))
    return loss, hidden.new_empty(len(hidden), len(weight)), divisor


softmax_in_place.register_fake(like_loss_of)


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy, (), of hidden (N, C) @ weight.T (V, C) with targets (N,)."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, operator: Callable):
        loss, *kept = operator(hidden, weight, targets, torch.compiler.is_compiling())
        ctx.save_for_backward(hidden, weight, *kept)
        return loss

    @staticmethod
    def backward(ctx, gradient):
        hidden, weight, powers, divisor = ctx.saved_tensors
        scale = gradient / divisor  # of a token: it is multiplied where there is less of it
        of_hidden = ((powers @ weight) * scale).to(hidden.dtype)
        return of_hidden, powers.T @ (hidden * scale).to(hidden.dtype), None, None


class InPlaceLoss(LogitsLoss):
    """The objective, its logits written over."""

    operator = staticmethod(softmax_in_place)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        head: nn.Module = self.model.head
        hidden, weight = head.operands(self.model.hidden(ids).flatten(0, 1), head.weight)
        return HeadLoss.apply(hidden, weight, targets.flatten(), self.operator)

"""The head and its loss for some tokens at a time, gradients in the forward pass: beyond's rung 3.

Shapes: N tokens, C model width, V vocabulary.
"""

import torch
from torch import Tensor

from common.accelerator.loops import compiled
from common.workloads.train.softmax_in_place import COMPILED as COMPILED_POWERS
from common.workloads.train.softmax_in_place import loss_of, powers_, put


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy of hidden (N, C) @ weight.T (V, C) with targets (N,), in chunks."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, rows: int):
        in_graph = torch.compiler.is_compiling()
        loss, *gradients = loss_and_gradients(hidden, weight, targets, rows, in_graph)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx, gradient):
        gradients = [(gradient * saved).to(saved.dtype) for saved in ctx.saved_tensors]
        return *gradients, None, None


def add_(total: Tensor, product: Tensor) -> None:
    """A sum of two formats, in place."""
    total.add_(product)


COMPILED = COMPILED_POWERS, compiled(add_)


# one operator for the compiler around it, which would otherwise unroll the chunks, work out several
# at a time, and keep the logits of each
@torch.library.custom_op("ladder::loss_and_gradients", mutates_args=())
def loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, in_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss, (), and its gradients: of hidden (N, C) and of weight (V, C)."""
    to_powers, add = COMPILED if in_graph else (powers_, add_)
    count = len(hidden)
    precise = torch.promote_types(hidden.dtype, torch.float32)  # what is summed up
    space = hidden.new_empty(min(rows, count), len(weight))  # of every chunk's logits
    never = hidden.new_full((), -torch.inf)
    loss = hidden.new_zeros((), dtype=precise)
    hidden_grad, weight_grad = torch.empty_like(hidden), None
    for begin in range(0, count, rows):
        chunk = slice(begin, begin + rows)
        at = targets[chunk, None]
        logits = torch.mm(hidden[chunk], weight.T, out=space[: len(at)])
        wanted = logits.gather(-1, at).to(precise)
        put(logits, targets[chunk], never)
        others, top = to_powers(logits, wanted)
        part, powers, divisor = loss_of(logits, others, wanted, top, targets[chunk])
        share = len(at) / count
        loss += part * share
        # what is common to a token is multiplied where there is less of it
        scale = share / divisor
        hidden_grad[chunk] = (powers @ weight) * scale
        scaled = (hidden[chunk] * scale).to(hidden.dtype)
        if weight_grad is None:
            weight_grad = (powers.T @ scaled).to(precise)
        elif weight_grad.dtype is powers.dtype:
            weight_grad.addmm_(powers.T, scaled)
        else:
            add(weight_grad, powers.T @ scaled)
    return loss, hidden_grad, weight_grad.to(weight.dtype)


def like_gradients(hidden, weight, *_):
    """Tensors of the kind that are returned, for the compiler."""
    precise = torch.promote_types(hidden.dtype, torch.float32)
    loss = hidden.new_empty((), dtype=precise)
    return loss, torch.empty_like(hidden), torch.empty_like(weight)


loss_and_gradients.register_fake(like_gradients)

"""3. Chunked head and loss.

Changes: the output layer, the softmax, and their gradients are computed for a few tokens at a time.
The (B T, V) logits never exist as a whole, nor does their gradient.
Why faster: float32 logits take 200 KB per token, so those of a batch do not fit in a cache. Forward
and backward pass of a chunk run together: its logits are computed once, their gradient overwrites
them, and the next chunk uses the same memory.
Cost: gradients are computed in the forward pass, even if no backward pass follows. If a step has no
more tokens than one chunk, the full logits do exist; the only gain left is computing them once.
When not: where whole logits are faster. Chunk sizes, torch's loss, and whole logits are measured.
Source: Hsu et al. 2024, Liger Kernel, arXiv:2410.10989 (chunks, gradients in the forward pass);
Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009.
Expected: 1.3 times on a CPU; memory rather than speed on a GPU.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.accelerator.loops import compiled
from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import LogitsLoss
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.softmax_in_place import COMPILED as COMPILED_POWERS
from common.workloads.train.softmax_in_place import powers_, put

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING
ROWS = (1024, 256, 128)  # tried, each in its own process; a smaller one must be faster


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy of hidden (N, C) @ weight.T (V, C) with targets (N,), in chunks."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, rows: int, operator: Callable):
        in_graph = torch.compiler.is_compiling()
        loss, *gradients = operator(hidden, weight, targets, rows, in_graph)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx, gradient):
        gradients = [(gradient * saved).to(saved.dtype) for saved in ctx.saved_tensors]
        return *gradients, None, None, None


def in_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, powers_of: Callable, add: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss, (), and its gradients: of hidden (N, C) and of weight (V, C).

    `powers_of` takes a slice of n tokens. It gives e^(logit - top) of each logit, (n, V), which may
    be written over, and for each token (n, 1) the sum of these without the target's, the target's
    logit, and `top`, which no logit is above.
    """
    count = len(hidden)
    precise = torch.promote_types(hidden.dtype, torch.float32)  # what is summed up
    loss = hidden.new_zeros((), dtype=precise)
    hidden_grad, weight_grad = torch.empty_like(hidden), None
    for begin in range(0, count, rows):
        chunk = slice(begin, begin + rows)
        powers, others, wanted, top = powers_of(chunk)
        total = others + (wanted - top).exp()
        loss += (top + total.log() - wanted).sum() / count
        # the gradient is the softmax less 1 at the target. That difference would cancel, the sum of
        # all others does not; and what is common to a token is multiplied where there is less of it
        put(powers, targets[chunk], -others[:, 0])
        scale = 1 / (total * count)
        hidden_grad[chunk] = (powers @ weight) * scale
        scaled = (hidden[chunk] * scale).to(hidden.dtype)
        if weight_grad is None:
            weight_grad = (powers.T @ scaled).to(precise)
        elif weight_grad.dtype is powers.dtype:
            weight_grad.addmm_(powers.T, scaled)
        else:
            add(weight_grad, powers.T @ scaled)
    return loss, hidden_grad, weight_grad.to(weight.dtype)


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
    """`in_chunks`, the logits being products in the format of hidden and weight."""
    to_powers, add = COMPILED if in_graph else (powers_, add_)
    space = hidden.new_empty(min(rows, len(hidden)), len(weight))  # of every chunk's logits
    never = hidden.new_full((), -torch.inf)

    def powers_of(chunk: slice):
        at = targets[chunk, None]
        logits = torch.mm(hidden[chunk], weight.T, out=space[: len(at)])
        wanted = logits.gather(-1, at).to(torch.promote_types(logits.dtype, torch.float32))
        put(logits, targets[chunk], never)
        others, top = to_powers(logits, wanted)
        return logits, others, wanted, top

    return in_chunks(hidden, weight, targets, rows, powers_of, add)


def like_gradients(hidden, weight, *_):
    """Tensors of the kind that `in_chunks` returns, for the compiler."""
    precise = torch.promote_types(hidden.dtype, torch.float32)
    loss = hidden.new_empty((), dtype=precise)
    return loss, torch.empty_like(hidden), torch.empty_like(weight)


loss_and_gradients.register_fake(like_gradients)


class ChunkedLoss(nn.Module):
    """The objective without whole logits."""

    operator = staticmethod(loss_and_gradients)

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.rows = recipe.loss_rows

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        head = self.model.head
        hidden, weight = head.operands(self.model.hidden(ids).flatten(0, 1), head.weight)
        return HeadLoss.apply(hidden, weight, targets.flatten(), self.rows, self.operator)


class TorchLoss(ChunkedLoss):
    """torch's own chunked head and loss."""

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        chunks = nn.LinearCrossEntropyOptions(
            batch_chunk_size=self.rows,
            chunking_method=None,
            acc_policy="accurate",  # on CPUs the others multiply 16 bits without the hardware
            allow_retain_graph=True,  # which compiling sets in any case, with a warning
        )
        head = self.model.head
        hidden, weight = head.operands(self.model.hidden(ids).flatten(0, 1), head.weight)
        return F.linear_cross_entropy(hidden, weight, targets.flatten(), options=chunks)


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.objective is LogitsLoss:
        return "whole logits"
    if not isinstance(run.objective, ChunkedLoss):
        raise NotInEffect(f"the objective is {type(run.objective).__name__}")
    own = not isinstance(run.objective, TorchLoss)
    return f"{run.objective.rows} tokens" if own else f"torch's, {run.objective.rows}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=ChunkedLoss, loss_rows=ROWS[0])


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    whole = {"whole logits": recipe}
    own = replace(recipe, objective=ChunkedLoss)
    found = {f"{rows} tokens": replace(own, loss_rows=rows) for rows in ROWS}
    if hasattr(F, "linear_cross_entropy"):  # from torch 2.13 on
        found["torch's, 256 tokens"] = replace(recipe, objective=TorchLoss, loss_rows=256)
    return found | whole

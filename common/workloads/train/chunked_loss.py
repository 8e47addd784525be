"""Head and cross-entropy for some tokens at a time, forwards and backwards: memory's rung 4."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from common.gpt.model import LogitsLoss
from common.workloads.train.update import IGNORED

CHUNKS = 4  # of a window, at least: those of a small shape have fewer tokens than a chunk


class HeadLoss(torch.autograd.Function):
    """The sum, (), of the cross-entropies of hidden (N, C) @ weight.T (V, C) with targets (N).

    `rows` tokens at a time. Nothing of a chunk is kept: the backward pass makes its logits again,
    so that their gradient is that of a loss that may have been scaled since. The weight's gradient
    adds up in one place; torch's own way, with a checkpoint for each chunk, holds three of it.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, rows: int) -> torch.Tensor:
        ctx.save_for_backward(hidden, targets)
        ctx.weight, ctx.rows = weight, rows  # it is there anyway: what is saved may be offloaded
        precise = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=precise)
        for chunk in chunks(len(hidden), rows):
            logits = hidden[chunk] @ weight.T
            total += F.cross_entropy(logits, targets[chunk], reduction="sum")
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (hidden, targets), weight = ctx.saved_tensors, ctx.weight
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight)
        for chunk in chunks(len(hidden), ctx.rows):
            wanted = targets[chunk, None]
            shares = torch.softmax(hidden[chunk] @ weight.T, dim=-1, dtype=gradient.dtype)
            shares.scatter_add_(1, wanted.clamp_min(0), shares.new_full(wanted.shape, -1))
            shares *= gradient * (wanted != IGNORED)
            shares = shares.to(hidden.dtype)
            hidden_grad[chunk] = shares @ weight
            weight_grad.addmm_(shares.T, hidden[chunk])
        return hidden_grad, weight_grad, None, None


def chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(begin, begin + rows) for begin in range(0, count, rows))


class ChunkedLoss(LogitsLoss):
    """The mean loss, of whose logits a chunk exists at a time."""

    def __init__(self, model: torch.nn.Module, recipe) -> None:
        super().__init__(model, recipe)
        self.rows = recipe.loss_rows

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        hidden, targets = self.model.hidden(ids).flatten(0, 1), targets.flatten()  # (B T, C), (B T)
        rows = max(1, min(self.rows, ids.shape[1] // CHUNKS))
        operands = self.model.head.operands(hidden, self.model.head.weight)
        device = hidden.device.type
        if torch.is_autocast_enabled(device):  # for whom this is one operator that it does not know
            operands = (operand.to(torch.get_autocast_dtype(device)) for operand in operands)
        with torch.autocast(device, enabled=False):
            return HeadLoss.apply(*operands, targets, rows) / (targets != IGNORED).sum()

"""12. Chunked head and loss.

Changes: the output layer, the softmax, and their gradients are worked out for a few tokens at a
time; the (B T, V) logits never exist as a whole, nor does their gradient.
Why faster: 200 KB of logits for each token in float32 do not fit any cache; a chunk does. Forward
and backward pass of a chunk come together, so that logits are computed once and never stored.
Cost: the gradient is made in the forward pass, also where nobody asks for it. How many tokens at a
time is best differs by device: it is measured, beside torch's own chunked loss and whole logits.
When not: where memory is fast and plentiful.
Source: Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009; Hsu et al. 2024, Liger Kernel,
arXiv:2410.10989. Expected: 1.3 times on a CPU; memory rather than speed on a GPU.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common.build import Run
from common.ladder import NotInEffect
from common.model import LogitsLoss
from common.recipe import Numerics, Recipe

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING
ROWS = (128, 256, 1024)  # tried, each in its own process


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy of hidden (N, C) @ weight.T (V, C) with targets (N,), in chunks."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, rows: int):
        count = hidden.shape[0]
        precise = torch.promote_types(weight.dtype, torch.float32)  # what chunks are summed in
        hidden_grad, weight_grad, loss = [], None, 0.0
        for begin in range(0, count, rows):
            chunk = hidden[begin : begin + rows]
            part, logits_grad = softmax_loss(chunk @ weight.T, targets[begin : begin + rows])
            logits_grad = (logits_grad / count).to(hidden.dtype)
            loss = loss + part / count
            hidden_grad.append(logits_grad @ weight)
            product = (logits_grad.T @ chunk).to(precise)
            weight_grad = product if weight_grad is None else weight_grad + product
        ctx.save_for_backward(torch.cat(hidden_grad), weight_grad.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx, gradient):
        hidden_grad, weight_grad = ctx.saved_tensors
        return (
            (gradient * hidden_grad).to(hidden_grad.dtype),
            (gradient * weight_grad).to(weight_grad.dtype),
            None,
            None,
        )


def softmax_loss(logits: torch.Tensor, targets: torch.Tensor):
    """The summed loss, (), of logits (N, V) in any precision; its gradient (N, V), not rounded."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = logits.amax(dim=-1, keepdim=True)
    powers = (logits - top).exp()
    total = powers.sum(dim=-1, keepdim=True)
    columns = torch.arange(logits.shape[-1], device=logits.device)
    hit = columns == targets[:, None]
    picked = logits.gather(-1, targets[:, None])
    return (top + total.log() - picked).sum(), powers / total - hit.to(logits.dtype)


class ChunkedLoss(nn.Module):
    """The objective without whole logits."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.rows = recipe.loss_rows

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        head = self.model.head
        hidden, weight = head.operands(self.model.hidden(ids).flatten(0, 1), head.weight)
        return HeadLoss.apply(hidden, weight, targets.flatten(), self.rows)


class TorchLoss(ChunkedLoss):
    """torch's own chunked head and loss."""

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
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
    own = type(run.objective) is ChunkedLoss
    return f"{run.objective.rows} tokens" if own else f"torch's, {run.objective.rows}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=ChunkedLoss, loss_rows=ROWS[0])


def candidates(recipe: Recipe) -> dict[str, Recipe]:
    found = {f"{rows} tokens": replace(recipe, loss_rows=rows) for rows in ROWS}
    if hasattr(F, "linear_cross_entropy"):  # from torch 2.13 on
        found["torch's, 256 tokens"] = replace(recipe, objective=TorchLoss, loss_rows=256)
    return found | {"whole logits": replace(recipe, objective=LogitsLoss, loss_rows=0)}

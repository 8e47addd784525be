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

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import LogitsLoss
from common.workloads.train.build import Run
from common.workloads.train.head_in_chunks import HeadLoss
from common.workloads.train.recipe import Recipe

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING
ROWS = (1024, 256, 128)  # tried, each in its own process; a smaller one must be faster


class ChunkedLoss(nn.Module):
    """The objective without whole logits."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.rows = recipe.loss_rows

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        head = self.model.head
        hidden, weight = head.operands(self.model.hidden(ids).flatten(0, 1), head.weight)
        return HeadLoss.apply(hidden, weight, targets.flatten(), self.rows)


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

"""4. Chunked loss.

Changes: head and cross-entropy take a few tokens at a time, and again in the backward pass.
Why smaller: float32 logits take 201 KB per token for GPT-2, as much as 4 blocks keep of it. Their
softmax, its gradient, and their own are as large: at the peak three of these are there.
Cost: the head's product runs twice in the forward direction.
When not: if the vocabulary is small, or whole logits are needed.
Source: Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009 (logits made again for the backward
pass); torch.utils.checkpoint.
Expected: 71 % of what is not resident; before rung 5, which would hide it.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import LogitsLoss
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from common.workloads.train.update import IGNORED

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING
ROWS = 128  # tokens of a chunk, for GPT-2 25 MiB of logits
CHUNKS = 4  # of a window, at least: those of a small shape have fewer tokens than that


class ChunkedLoss(LogitsLoss):
    """The mean loss, of whose logits a chunk exists at a time."""

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self.rows = recipe.loss_rows

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden, targets = self.model.hidden(ids).flatten(0, 1), targets.flatten()  # (B T, C), (B T)
        rows = max(1, min(self.rows, ids.shape[1] // CHUNKS))
        total = 0.0
        for chunk, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            total += checkpoint(
                self.of_chunk, chunk, wanted, use_reentrant=False, preserve_rng_state=False
            )
        return total / (targets != IGNORED).sum()

    def of_chunk(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Hidden (n, C) and targets (n) to the sum of their losses, ()."""
        precise = torch.promote_types(hidden.dtype, torch.float32)
        return F.cross_entropy(self.model.head(hidden), targets, reduction="sum").to(precise)


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not isinstance(run.objective, ChunkedLoss):
        raise NotInEffect(f"the objective is {type(run.objective).__name__}")
    chunks = run.counted.calls.get("aten.nll_loss_forward.default", 0) / 2 / run.counted.forwards
    if chunks < CHUNKS:
        raise NotInEffect(f"{chunks:g} chunk(s) of a part, each twice")
    return f"{chunks:g} chunks"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=ChunkedLoss, loss_rows=ROWS)

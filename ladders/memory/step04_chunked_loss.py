"""4. Chunked loss.

Changes: head and cross-entropy take a few tokens at a time, and again in the backward pass.
Why smaller: float32 logits take 201 KB per token for GPT-2, as much as 4 blocks keep of it. Their
softmax, its gradient, and their own are as large: at the peak three of these are there.
Cost: the head's product runs twice in the forward direction.
When not: if the vocabulary is small, or whole logits are needed.
Source: Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009 (logits made again for the backward
pass).
Expected: at GPT-2's size 10 % after rung 3, and 40 % without it, where a whole batch's logits are
there.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.chunked_loss import CHUNKS, ChunkedLoss
from common.workloads.train.recipe import Recipe

CHANGES = ("objective", "loss_rows")
NUMERICS = Numerics.ROUNDING
ROWS = 128  # tokens of a chunk, for GPT-2 25 MiB of logits


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if not isinstance(run.objective, ChunkedLoss):
        raise NotInEffect(f"the objective is {type(run.objective).__name__}")
    chunks = run.counted.calls.get("aten.nll_loss_forward.default", 0) / run.counted.forwards
    if chunks < CHUNKS:
        raise NotInEffect(f"{chunks:g} chunk(s) in a part of the batch")
    return f"{chunks:g} chunks"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, objective=ChunkedLoss, loss_rows=ROWS)

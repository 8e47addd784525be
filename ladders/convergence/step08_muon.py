"""8. Muon.

Changes: the blocks' weight matrices are updated by Muon: momentum, made orthogonal. Embeddings,
head, norms, and biases stay AdamW's. It stands on rung 5.
Why: a gradient has a few large directions, and AdamW's update mostly follows them; of an orthogonal
one all directions move alike, also those that are rare and small.
Cost: 15 products of a matrix's size in every update, whatever the batch: much where that is small.
When not: for parameters that are no matrices, or whose rows are looked up. Its scale matters: here
updates are as large as AdamW's, so that one learning rate serves both.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982 for
the scale.
Expected: half of the tokens, at 1.5 to 2 times the seconds an update on a small model.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.muon import Muon
from common.workloads.train.recipe import Recipe

BASE = 5
CHANGES = ("optimizer", "matrices_apart")
NUMERICS = Numerics.EXACT  # of the gradients that it is given


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    by_muon = [p for p, state in run.optimizer.state.items() if "exp_avg_sq" not in state]
    due = [p for p in run.inner.blocks.parameters() if p.ndim == 2]
    if {*map(id, by_muon)} != {*map(id, due)}:
        raise NotInEffect(f"{len(by_muon)} matrices of {len(due)} have no second moment")
    return f"{len(due)} matrices by Muon"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, optimizer=Muon, matrices_apart=True)

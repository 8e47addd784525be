"""5. Gradient clipping.

Changes: gradients whose norm together is above 1 are scaled down to it. It stands on rung 2.
Why: one batch in a thousand has a gradient ten times the usual, which would undo many updates.
Cost: a pass over all gradients for the norm. What is clipped must be the whole batch's gradient,
not a part's, and not one that a scaler has scaled.
When not: AdamW divides by the gradients' size anyway; where no norm stands out, nothing is gained.
Source: Pascanu et al. 2013, On the difficulty of training RNNs, arXiv:1211.5063; pytorch/examples
issue 1196 (the mistake to clip scaled gradients).
Expected: nothing in the mean, and less spread between seeds.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

BASE = 2
CHANGES = ("clip_norm",)
NUMERICS = Numerics.DIFFERENT_WORK
NORM = 1.0


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    found = sum(gradient.float().square().sum() for gradient in gradients).item() ** 0.5
    before, rounding = run.update.norm, 2 * max(torch.finfo(g.dtype).eps for g in gradients)
    if before is None or found > (1.001 + rounding) * NORM:
        raise NotInEffect(f"the optimizer was given gradients of norm {found:.2f}")
    return f"norm {before.item():.2f} to {found:.2f} at update {run.rates.done}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, clip_norm=NORM)

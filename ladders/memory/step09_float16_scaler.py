"""9. float16 and a scaler.

Changes: products in float16, beside rungs 7 and 8. The loss is multiplied by a large factor, the
gradients are divided by it again, and an update whose gradients are no numbers is skipped.
Why smaller: as rung 7, on GPUs without bfloat16 (V100, T4).
Cost: skipped steps, which are steps that trained nothing; the host waits for the verdict.
When not: on CPUs, which multiply float16 far slower than float32, and where bfloat16 is there: its
range needs no factor. The order is scale, unscale, clip, step, update.
Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740; torch.amp.GradScaler.
Expected: as rung 7 for memory.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from ladders.memory.step07_bfloat16_autocast import ran_in

BASE = 5
CHANGES = ("autocast", "loss_scaling")
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    if device.type not in ("cuda", "xpu"):
        return f"float16 products are for CUDA and Intel GPUs; this is {device.type}"
    return None


def in_effect(run: Run) -> str:
    if not run.update.scaler.is_enabled():
        raise NotInEffect("the scaler is off")
    return f"{ran_in(run, 'float16')}, scale {run.update.scaler.get_scale():g}"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, autocast=torch.float16, loss_scaling=True)

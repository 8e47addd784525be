"""5. bfloat16.

Changes: parameters, activations, gradients, and the optimizer's moments are bfloat16.
Why faster: half the bytes to move and to store. Tensor cores multiply 16-bit numbers at twice the
rate of TF32. CPUs with AMX multiply them faster than float32, too; on other CPUs it depends
(beyond, rung 5).
Cost: 7 bits of mantissa. An update of less than 1/512 of its weight is always rounded away. On a
CPU the held-out loss after 202 steps was 0.06 nats higher than in float32 (LOG.md).
When not: for long runs, where updates become small: keep float32 weights and use autocast. Compare
the loss column before you keep this rung.
Source: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322.
"""

from dataclasses import replace

import torch

from common.accelerator.device import missing_bf16
from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("dtype",)
NUMERICS = Numerics.LOWER_PRECISION


def applies(device, recipe: Recipe) -> str | None:
    return missing_bf16(device)


def in_effect(run: Run) -> str:
    dtypes = {parameter.dtype for parameter in run.model.parameters()}
    if dtypes != {torch.bfloat16}:
        raise NotInEffect(f"parameters are {', '.join(sorted(map(str, dtypes)))}")
    return "bfloat16"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, dtype=torch.bfloat16)

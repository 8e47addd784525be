"""6. Native LayerNorm and GELU.

Changes: PyTorch's own LayerNorm and tanh GELU replace the hand-written ones.
Why faster: one kernel reads its input once and writes its output once. The hand-written LayerNorm
passes over the tensor six times, GELU eight times, and both keep intermediate results.
Cost: none known. In bfloat16 it is more accurate, too: the kernel computes in float32 inside.
When not: for a norm or an activation that PyTorch lacks. torch.compile (step 8) fuses hand-written
layers as well.
Source: docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html, torch.nn.GELU.html
"""

from dataclasses import replace

from torch import nn

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import GELU, LayerNorm
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("norm", "activation")
NUMERICS = Numerics.ROUNDING


class NativeGELU(nn.GELU):
    """PyTorch's GELU in the form that GPT-2 uses."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    layers = list(run.model.modules())
    if any(isinstance(layer, (LayerNorm, GELU)) for layer in layers):
        raise NotInEffect("hand-written layers are still in the model")
    norms = sum(isinstance(layer, nn.LayerNorm) for layer in layers)
    return f"{norms} native norms"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, norm=nn.LayerNorm, activation=NativeGELU)

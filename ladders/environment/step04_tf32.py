"""4. TF32 tensor cores.

Changes: TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1: float32 matrix products may round their inputs to TF32
(10 bits of mantissa, not 23), as torch.set_float32_matmul_precision("high") has it.
Why faster: tensor cores multiply TF32, on an A100 at eight times the rate of float32 units.
Cost: products are good to about three digits. Sums and everything else stay float32.
When not: where products are bfloat16 already; NVIDIA's containers set it anyhow. A command that
sets the precision itself may undo it; only a product would tell, and from outside none is seen.
Source: PyTorch, aten/src/ATen/Context.h; NVIDIA A100 datasheet (the rates).
Expected: up to 2 times where training is in float32, nothing in bfloat16.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("tf32",)
NUMERICS = Numerics.LOWER_PRECISION
NAME = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def applies(device, recipe: CommandRecipe) -> str | None:
    if device.vendor != "nvidia":
        return f"TF32 is tried on NVIDIA's GPUs only; this is {device.name}"
    if device.capability < (8, 0):
        return f"TF32 needs compute capability 8.0; {device.name} has {device.capability_text}"
    return already_set(NAME, "NVIDIA_TF32_OVERRIDE")


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.tf32)
    if not run.program.on_gpu():
        raise NotInEffect("none of the command's processes has a GPU open")
    return "by the environment; a GPU is open"


def apply(recipe: CommandRecipe) -> CommandRecipe:
    return replace(recipe, tf32=(f"{NAME}=1",))

"""12. Attention backend.

Changes: which fused kernel computes attention: cuDNN's, FlashAttention 2, the memory-efficient one,
and FlashAttention 3 or 4 where they are installed. Each is named, and measured.
Why faster: cuDNN's kernel uses Hopper's asynchronous matrix units, FlashAttention 2 does not. An
A100 has none, and there FlashAttention 2 may win.
Cost: none; but a newer driver, cuDNN, or torch may change the order, so measure again.
When not: on a device with one fused kernel.
Source: Shah et al. 2024, FlashAttention-3, arXiv:2407.08608; torch.nn.attention.sdpa_kernel.
Expected: on an H100 5 to 10 % over step 7's FlashAttention 2 (attention alone 1.7 to 2.3 times as
fast with cuDNN's kernel); nothing on an A100.
"""

import importlib.util
from dataclasses import replace

from torch.nn import attention
from torch.nn.attention import SDPBackend as Kernel

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from ladders.beyond.step04_fused_qkv import FusedProjection
from steps import step07_flash_attention

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING


class Flash(FusedProjection):
    """The named kernel and no other."""

    kernels = [Kernel.FLASH_ATTENTION]
    ran = "flash"  # as step 7 calls what it sees


class Cudnn(Flash):
    kernels, ran = [Kernel.CUDNN_ATTENTION], "cudnn"


class Efficient(Flash):
    kernels, ran = [Kernel.EFFICIENT_ATTENTION], "efficient"


class Flash3(Flash):
    """FlashAttention 3 in the flash kernel's place, for the whole process."""

    implementation, module = "FA3", "flash_attn_interface"

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        attention.activate_flash_attention_impl(self.implementation)


class Flash4(Flash3):
    implementation, module = "FA4", "flash_attn.cute"


CHOICES = {"cudnn": Cudnn, "flash": Flash, "efficient": Efficient}
PACKAGES = {"flash 3": Flash3, "flash 4": Flash4}  # without dropout, and only where installed


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def applies(device, recipe: Recipe) -> str | None:
    if device.type != "cuda":
        return f"the kernels to choose from are for CUDA devices; this is {device.type}"
    if recipe.attention is not FusedProjection:
        return "it builds on the fused QKV projection (rung 4)"
    return None


def in_effect(run: Run) -> str:
    ran, wanted = step07_flash_attention.kernel_that_ran(run), run.recipe.attention.ran
    if ran != wanted:
        raise NotInEffect(f"{ran} ran instead of {wanted}")
    return next(k for k, v in (CHOICES | PACKAGES).items() if v is run.recipe.attention)


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=Cudnn)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    kernels = {k: v for k, v in CHOICES.items() if v is not Cudnn or device.vendor == "nvidia"}
    packages = {k: v for k, v in PACKAGES.items() if not recipe.dropout and installed(v.module)}
    return {k: replace(recipe, attention=v) for k, v in (kernels | packages).items()}

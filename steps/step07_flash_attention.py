"""7. FlashAttention.

Changes: one fused kernel computes attention, through PyTorch's scaled_dot_product_attention. On
CUDA it is FlashAttention 2, named explicitly: on an H100 torch may otherwise choose cuDNN's.
Why faster: the kernel works through the (T, T) scores tile by tile in on-chip memory. They never
reach device memory, and tiles that the mask hides are skipped.
Cost: the attention weights cannot be looked at.
When not: where torch's fused kernel lacks what training needs: float32 on GPUs (step 5), dropout on
CPUs and Intel GPUs, a backward pass on Apple GPUs.
Source: Dao 2023, FlashAttention-2, arXiv:2307.08691; torch.nn.attention.sdpa_kernel (the choice).
"""

from dataclasses import replace

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend as Kernel
from torch.nn.attention import sdpa_kernel

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import CausalAttention
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING
FUSED = {  # a part of the operator's name: what to call it
    "scaled_dot_product_cudnn": "cudnn",
    "scaled_dot_product_flash": "flash",
    "scaled_dot_product_efficient": "efficient",
    "scaled_dot_product_fused": "fused",
    "scaled_dot_product_attention_math_for_mps": "mps",
}


class FlashAttention(CausalAttention):
    """The same parameters under the same names; the mask is a flag of the kernel."""

    # all but cuDNN's, which torch takes before FlashAttention on some GPUs; of these, the first
    # that can run (OVERRIDEABLE is Intel's GPUs')
    kernels = [Kernel.FLASH_ATTENTION, Kernel.EFFICIENT_ATTENTION, Kernel.OVERRIDEABLE, Kernel.MATH]

    def attend(self, query, key, value) -> torch.Tensor:
        """Three (B, H, T, D) tensors to one, the scores never written out."""
        dropout = self.dropout.p if self.training else 0.0
        with sdpa_kernel(self.kernels):
            return F.scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, is_causal=True
            )


def applies(device, recipe: Recipe) -> str | None:
    if device.type == "mps":  # github.com/pytorch/pytorch/issues/179294
        return "torch's attention kernel for Apple GPUs has no backward pass"
    # on xpu neither oneDNN's nor the flash kernel: github.com/intel/torch-xpu-ops/issues/2232
    if device.type in ("cpu", "xpu") and recipe.dropout:
        kind = device.type.upper()
        return f"the fused {kind} kernel does not run with dropout ({recipe.dropout:g})"
    if device.capability and device.capability < (8, 0):  # torch's sdp_utils.cpp: sm80 to sm121
        needs = "compute capability 8.0 and 16-bit inputs"
        return f"the flash kernel needs {needs}; {device.name} has {device.capability_text}"
    if device.type != "cpu" and recipe.dtype not in (torch.float16, torch.bfloat16):
        return "the flash kernel wants 16-bit inputs (step 5)"
    return None


def kernel_that_ran(run: Run) -> str:
    ran = {
        name for part, name in FUSED.items() if any(part in operator for operator in run.operators)
    }
    if not ran:
        raise NotInEffect("no fused attention kernel ran: the unfused path was taken")
    return "+".join(sorted(ran))


def in_effect(run: Run) -> str:
    ran = kernel_that_ran(run)
    if run.device.type == "cuda" and ran != "flash":
        raise NotInEffect(f"{ran} attention ran instead of FlashAttention")
    return ran


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=FlashAttention)

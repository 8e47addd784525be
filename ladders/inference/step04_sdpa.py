"""4. Fused attention.

Changes: one kernel computes attention, through torch's scaled_dot_product_attention. On CPUs a
single token in 16 bits is tried in float32, too.
Why faster: scores are never written out, and one call takes the place of four.
Cost: the mask is on the caller. `is_causal` lines its triangle up with the first key: right for a
prompt in an empty cache, wrong for tokens after others, which need a mask, and a single token none.
For one query torch's kernel for CPUs took seven times as long in bfloat16 as in float32 (LOG.md).
When not: if attention weights are to be looked at.
Source: Dao et al. 2022, FlashAttention, arXiv:2205.14135; torch.nn.attention.bias, documentation
(causal_upper_left and causal_lower_right).
Expected: nothing to 1.3 times; more for the prompt, whose scores are n by n.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.model import Attention
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run

CHANGES = ("attention",)
NUMERICS = Numerics.ROUNDING
FUSED = ("flash", "efficient", "cudnn", "fused", "math_for_mps")  # in names of torch's kernels


class FusedAttention(Attention):
    """As many keys as queries: nothing stood before them, and the triangle fits."""

    enable_gqa = False  # rung 9

    def __init__(self, *given) -> None:
        super().__init__(*given)
        if next(self.buffers()).is_cuda:
            # on an H200 cuDNN's kernel decoded other tokens from one step to the next (LOG.md)
            torch.backends.cuda.enable_cudnn_sdp(False)

    def attend(self, query, key, value, seen):
        whole = seen is not None and query.shape[-2] == key.shape[-2]
        mask = None if whole else seen
        more = {"is_causal": whole, "enable_gqa": self.enable_gqa}
        return F.scaled_dot_product_attention(query, key, value, mask, **more)


class WideAttention(FusedAttention):
    """On a CPU a single token's in float32; keys and values are converted as they are read."""

    def attend(self, query, key, value, seen):
        if query.shape[-2] > 1 or query.device.type != "cpu":
            return super().attend(query, key, value, seen)
        wide = (part.float() for part in (query, key, value))
        return super().attend(*wide, seen).to(query.dtype)


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    names = {name for name in run.operators if "_scaled_dot_product" in name}
    ran = {kind for kind in FUSED if any(kind in name for name in names)}
    if not ran:
        raise NotInEffect("no fused attention kernel ran: the unfused path was taken")
    calls = sum(run.operators[name] for name in names if any(kind in name for kind in ran))
    due = sum(len(model.blocks) for model in run.passes)
    if calls < due:
        raise NotInEffect(f"{calls} fused calls, where layers ran {due} times")
    return "+".join(sorted(ran))


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, attention=FusedAttention)


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    """In the cache's format, or in float32, which a CPU's kernel may like better."""
    if device.type != "cpu" or recipe.dtype.itemsize != 2:
        return {}
    kinds = {"in 16 bits": FusedAttention, "in float32": WideAttention}
    return {label: replace(recipe, attention=kind) for label, kind in kinds.items()}

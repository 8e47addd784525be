"""6. Selective checkpointing.

Changes: what costs most to make again is kept: results of attention, or of matrix products, too.
Why smaller: it is not; it buys back a part of rung 5's time with the fewest bytes. Attention's
result is 1 of a block's 16 tensors, and the work for it grows with the square of the context.
Cost: those bytes in every block, so that the rungs above stand on rung 5.
When not: if memory is all that counts, or if torch.compile chooses what to keep (it hardly saves
then: pytorch issue 161889).
Source: torch.utils.checkpoint.create_selective_checkpoint_contexts; torchtitan, selective AC.
Expected: for attention's results 1 % more than rung 5 at GPT-2's size.
"""

from dataclasses import replace
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import Block
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe
from ladders.memory.step05_checkpointing import passes

CHANGES = ("block",)
NUMERICS = Numerics.ROUNDING
ATEN = torch.ops.aten


class KeepsAttention(Block):
    """Runs its forward pass again, but for the operators whose results are kept."""

    recomputed = None
    kept = tuple(
        getattr(ATEN, f"_scaled_dot_product_{name}").default
        for name in (
            *("flash_attention_for_cpu", "flash_attention", "efficient_attention"),
            *("cudnn_attention", "fused_attention_overrideable"),
        )
    )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        contexts = partial(create_selective_checkpoint_contexts, [*self.kept])
        return checkpoint(super().forward, x, use_reentrant=False, context_fn=contexts)


class KeepsProducts(KeepsAttention):
    kept = (*KeepsAttention.kept, ATEN.mm.default, ATEN.addmm.default)


CHOICES = {"attention": KeepsAttention, "products too": KeepsProducts}


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    passes(run)
    once, kept = run.shape.layers * run.counted.forwards, run.recipe.block.kept
    attended = sum(run.counted.calls.get(str(operator), 0) for operator in KeepsAttention.kept)
    if attended != once:
        raise NotInEffect(f"attention ran {attended} times, where one for each block is {once}")
    return next(label for label, block in CHOICES.items() if block.kept == kept)


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, block=KeepsAttention)


def candidates(device, recipe: Recipe) -> dict[str, Recipe]:
    return {label: replace(recipe, block=block) for label, block in CHOICES.items()}

"""The recipes that the memory table compares: the memory ladder's rungs in some combinations."""

from dataclasses import replace
from types import ModuleType

from common.engine.device import DeviceFacts
from common.workloads.train.recipe import Recipe
from ladders.memory import (
    LADDER,
    step01_set_to_none,
    step02_fused_adamw,
    step04_chunked_loss,
    step05_checkpointing,
    step07_bfloat16_autocast,
    step08_bfloat16,
    step11_eight_bit_moments,
)

# any CPU: operators make the same tensors on all of them
ANY_CPU = DeviceFacts(type="cpu", name="any CPU", vendor="cpu", memory_gib=0.0, native_bf16=True)
AUTOCAST, BFLOAT16 = step07_bfloat16_autocast, step08_bfloat16
CHUNKED, CHECKPOINTED = step04_chunked_loss, step05_checkpointing
EIGHT_BIT = step11_eight_bit_moments
RECIPES: tuple[tuple[str, tuple[ModuleType, ...]], ...] = (
    ("float32", ()),
    ("  chunked loss", (CHUNKED,)),
    ("  checkpointed", (CHECKPOINTED,)),
    ("  both savings", (CHUNKED, CHECKPOINTED)),
    ("bfloat16 autocast", (AUTOCAST,)),
    ("bfloat16 throughout", (BFLOAT16,)),
    ("  both savings", (CHUNKED, CHECKPOINTED, BFLOAT16)),
    ("  and 8-bit moments", (CHUNKED, CHECKPOINTED, BFLOAT16, EIGHT_BIT)),
)


def recipe_of(rungs: tuple[ModuleType, ...], batch: int, parts: int = 1) -> Recipe:
    """The memory ladder's foot at a batch with these rungs: gradients freed, AdamW fused.

    Without dropout. `parts`: that the batch is cut into, as rung 3 does.
    """
    numbers = {rung.module: rung.number for rung in LADDER.rungs}
    foot = LADDER.foot(Recipe(batch_size=batch, dropout=0.0), ANY_CPU)
    always = (step01_set_to_none, step02_fused_adamw)
    found = LADDER.compose(foot, [numbers[module] for module in (*always, *rungs)])
    return replace(found, accumulation=parts)

"""The memory ladder: the least memory that still trains, and what each saving costs."""

from dataclasses import replace

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.train.memory import MEMORY
from common.workloads.train.recipe import Recipe
from ladders.memory import (
    step01_set_to_none,
    step02_fused_adamw,
    step03_accumulation,
    step04_chunked_loss,
    step05_checkpointing,
    step06_selective_checkpointing,
    step07_bfloat16_autocast,
    step08_bfloat16,
    step09_float16_scaler,
    step10_update_in_backward,
    step11_eight_bit_moments,
    step12_offload,
    step13_collect_garbage,
)
from steps import LADDER as STEPS
from steps.step07_flash_attention import FlashAttention

# of the steps: no mask is stored, layers keep no more than they must, and attention's scores (T, T)
# are not written out, beside which the savings here would hardly show
AT_THE_FOOT = (1, 6, 7)


def foot(recipe: Recipe, device) -> Recipe:
    """float32, all windows at once, gradients zeroed instead of freed, with steps AT_THE_FOOT.

    Step 7 wants 16 bits on CUDA, for the kernel that it names. There another kernel, which does
    not write out the scores either, does attention in float32.
    """
    recipe = STEPS.compose(recipe, STEPS.applicable(AT_THE_FOOT, recipe, device))
    attention = FlashAttention if device.type == "cuda" else recipe.attention
    return replace(recipe, keep_gradients=True, attention=attention)


LADDER = Ladder(
    name="ladders.memory",
    workload=MEMORY,
    foot=foot,
    start="float32, 8 at once",
    purpose=Purpose(
        name={"en": "Memory", "ja": "メモリ"},
        about={
            "en": "The peak of tensor bytes in one update, counted, and the speed that is left.",
            "ja": "1 回の更新でのテンソルのバイト数の最大値（数えた値）と、そのときの速度。",
        },
    ),
    note="peak MiB: counted tensors of one update; operators' own scratch space is not counted",
    modules=(
        step01_set_to_none,
        step02_fused_adamw,
        step03_accumulation,
        step04_chunked_loss,
        step05_checkpointing,
        step06_selective_checkpointing,
        step07_bfloat16_autocast,
        step08_bfloat16,
        step09_float16_scaler,
        step10_update_in_backward,
        step11_eight_bit_moments,
        step12_offload,
        step13_collect_garbage,
    ),
)

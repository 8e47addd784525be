"""The ladder: from a plain GPT-2 training step to one with ten optimizations."""

from common.ladder import Ladder
from steps import (
    step01_causal_mask,
    step02_tf32,
    step03_fused_adamw,
    step04_pinned_memory,
    step05_bfloat16,
    step06_native_layers,
    step07_flash_attention,
    step08_compile,
    step09_vocab_padding,
    step10_largest_batch,
)

LADDER = Ladder(
    name="steps",
    rungs=(
        step01_causal_mask,
        step02_tf32,
        step03_fused_adamw,
        step04_pinned_memory,
        step05_bfloat16,
        step06_native_layers,
        step07_flash_attention,
        step08_compile,
        step09_vocab_padding,
        step10_largest_batch,
    ),
)

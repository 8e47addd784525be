"""The ladder: from a plain GPT-2 training step to an optimized one, one change at a time."""

from dataclasses import replace

from common.ladder import Ladder
from common.published import published_gains
from common.train_metrics import TRAINING
from steps import (
    on_all_devices,
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
    workload=TRAINING,
    published=published_gains,
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

# where there are several devices the ladder ends with all of them
ON_ALL_DEVICES = replace(LADDER, attribute="ON_ALL_DEVICES", rungs=(*LADDER.rungs, on_all_devices))

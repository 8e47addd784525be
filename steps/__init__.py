"""The ladder: from a plain GPT-2 training step to an optimized one, one change at a time."""

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.parallel.any_number import ANY_NUMBER
from common.workloads.train.published import published_gains
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
    step11_all_devices,
)

LADDER = Ladder(
    name="steps",
    workload=ANY_NUMBER,
    attributed=True,
    published=published_gains,
    purpose=Purpose(
        name={"en": "Training", "ja": "学習"},
        about={
            "en": "Training tokens per second, from a plain script up.",
            "ja": "素朴なスクリプトから始めた学習の、1 秒あたりのトークン数。",
        },
    ),
    modules=(
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
        step11_all_devices,
    ),
)

"""The inference ladder: one token after another, from recomputing everything to many requests."""

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.generate.workload import GENERATE
from ladders.inference import (
    step01_kv_cache,
    step02_preallocated_cache,
    step03_bfloat16,
    step04_sdpa,
    step05_packed_weights,
    step06_int8_weights,
    step07_int4_weights,
    step08_compiled_step,
    step09_grouped_queries,
    step10_multi_query,
    step11_look_up,
    step12_draft_model,
    step13_skipped_layers,
    step14_batching,
    step15_static_batches,
    step16_continuous_batching,
)

LADDER = Ladder(
    name="ladders.inference",
    workload=GENERATE,
    start="all tokens again",
    purpose=Purpose(
        name={"en": "Inference", "ja": "推論"},
        about={
            "en": "New tokens per second, of all requests together, and how long each one takes.",
            "ja": "全リクエスト合計の 1 秒あたりの新しいトークン数と、1 トークンの時間。",
        },
    ),
    note="tok/s: new tokens of all requests; their prompts were read before (first token, ms)",
    modules=(
        step01_kv_cache,
        step02_preallocated_cache,
        step03_bfloat16,
        step04_sdpa,
        step05_packed_weights,
        step06_int8_weights,
        step07_int4_weights,
        step08_compiled_step,
        step09_grouped_queries,
        step10_multi_query,
        step11_look_up,
        step12_draft_model,
        step13_skipped_layers,
        step14_batching,
        step15_static_batches,
        step16_continuous_batching,
    ),
)

"""The inference ladder: one token after another, from recomputing everything to many requests."""

from common.engine.ladder import Ladder
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

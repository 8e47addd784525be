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

SEVERAL = (step14_batching, step15_static_batches, step16_continuous_batching)


def serves_several(row: dict) -> dict[str, str]:
    """What is against a rung that decodes requests side by side."""
    if row["name"] not in [rung.title for rung in LADDER.rungs if rung.module in SEVERAL]:
        return {}
    return {
        "en": "with several requests at once, each of which waits for the others",
        "ja": "複数のリクエストを同時に扱い、それぞれが互いを待つ",
    }


LADDER = Ladder(
    name="ladders.inference",
    workload=GENERATE,
    start="all tokens again",
    purpose=Purpose(
        name={"en": "Inference", "ja": "推論"},
        about={
            "en": "New tokens per second of one request, and how long each one takes.",
            "ja": "1 つのリクエストの、1 秒あたりの新しいトークン数と 1 トークンの時間。",
        },
        barred=serves_several,
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

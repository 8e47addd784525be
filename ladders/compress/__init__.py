"""The compress ladder: how small, at what loss. Two stories: fewer bits, and fewer weights."""

from common.engine.ladder import Ladder
from common.workloads.compress.workload import COMPRESS
from ladders.compress import (
    step01_bfloat16,
    step02_int8_per_tensor,
    step03_int8_asymmetric,
    step04_int8_per_channel,
    step05_int4_in_groups,
    step06_int8_activations,
    step07_smoothquant,
    step08_gptq,
    step09_awq,
    step10_qat,
    step11_mixed_precision,
    step12_magnitude,
    step13_heads_and_neurons,
    step14_taylor,
    step15_lottery_ticket,
    step16_two_of_four,
)

LADDER = Ladder(
    name="ladders.compress",
    workload=COMPRESS,
    start="float32",
    note="file: bytes of safetensors; losses are compared on the same held-out windows; a speed is "
    "of one process and not judged",
    modules=(
        step01_bfloat16,
        step02_int8_per_tensor,
        step03_int8_asymmetric,
        step04_int8_per_channel,
        step05_int4_in_groups,
        step06_int8_activations,
        step07_smoothquant,
        step08_gptq,
        step09_awq,
        step10_qat,
        step11_mixed_precision,
        step12_magnitude,
        step13_heads_and_neurons,
        step14_taylor,
        step15_lottery_ticket,
        step16_two_of_four,
    ),
)

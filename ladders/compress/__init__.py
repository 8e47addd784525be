"""The compress ladder: how small, at what loss. Two stories: fewer bits, and fewer weights."""

from dataclasses import replace

import torch

from common.engine.contract import Numerics
from common.engine.ladder import Ladder
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.workload import COMPRESS
from ladders.compress import (
    step01_int8_per_tensor,
    step02_int8_asymmetric,
    step03_int8_per_channel,
    step04_int4_in_groups,
    step05_int8_activations,
    step06_smoothquant,
    step07_gptq,
    step08_awq,
    step09_qat,
    step10_mixed_precision,
    step11_magnitude,
    step12_heads_and_neurons,
    step13_taylor,
    step14_lottery_ticket,
    step15_two_of_four,
)


def foot(recipe: CompressRecipe, device) -> CompressRecipe:
    """In bfloat16 where the device has it: kernels for fewer bits are fast above that only."""
    return replace(recipe, dtype=torch.bfloat16) if device.native_bf16 else recipe


LADDER = Ladder(
    name="ladders.compress",
    workload=COMPRESS,
    foot=foot,
    start="bfloat16",
    declared=Numerics.LOWER_PRECISION,
    reference="float32",
    note="file: bytes of safetensors; losses are compared on the same held-out windows; a speed is "
    "of one process and not judged",
    modules=(
        step01_int8_per_tensor,
        step02_int8_asymmetric,
        step03_int8_per_channel,
        step04_int4_in_groups,
        step05_int8_activations,
        step06_smoothquant,
        step07_gptq,
        step08_awq,
        step09_qat,
        step10_mixed_precision,
        step11_magnitude,
        step12_heads_and_neurons,
        step13_taylor,
        step14_lottery_ticket,
        step15_two_of_four,
    ),
)

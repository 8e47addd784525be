"""Your own model: which of the usual changes help it on this machine, and the lines to write."""

from common.engine.ladder import Ladder
from common.workloads.own.workload import OWN
from ladders.own import (
    step01_tf32,
    step02_fused_optimizer,
    step03_pinned_memory,
    step04_bfloat16_autocast,
    step05_channels_last,
    step06_native_modules,
    step07_attention,
    step08_padded_head,
    step09_page_faults,
    step10_compile,
    step11_cuda_graphs,
    step12_bfloat16_weights,
    step13_eight_bit_moments,
    step14_checkpointing,
    step15_accumulation,
    step16_largest_batch,
)

LADDER = Ladder(
    name="ladders.own",
    workload=OWN,
    attributed=True,
    start="your model",
    note="rungs 12 to 16 each stand on rung 9, not on one another: alternatives, or for memory",
    modules=(
        step01_tf32,
        step02_fused_optimizer,
        step03_pinned_memory,
        step04_bfloat16_autocast,
        step05_channels_last,
        step06_native_modules,
        step07_attention,
        step08_padded_head,
        step09_page_faults,
        step10_compile,
        step11_cuda_graphs,
        step12_bfloat16_weights,
        step13_eight_bit_moments,
        step14_checkpointing,
        step15_accumulation,
        step16_largest_batch,
    ),
)

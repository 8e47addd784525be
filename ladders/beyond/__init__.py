"""Beyond rung 10: the fastest training step that plain PyTorch gives, one change at a time."""

from common.ladder import Ladder
from ladders.beyond import (
    step11_loss_in_graph,
    step12_chunked_head,
    step13_page_faults,
    step14_fused_qkv,
    step15_narrow_heads,
    step16_product_format,
    step17_no_dropout,
    step18_attention_backend,
    step19_resident_tokens,
    step20_compile_mode,
    step21_float8,
    step22_largest_batch,
)
from steps import LADDER as STEPS

OWN = (
    step11_loss_in_graph,
    step12_chunked_head,
    step13_page_faults,
    step14_fused_qkv,
    step15_narrow_heads,
    step16_product_format,
    step17_no_dropout,
    step18_attention_backend,
    step19_resident_tokens,
    step20_compile_mode,
    step21_float8,
    step22_largest_batch,
)
LADDER = Ladder(
    name="ladders.beyond",
    rungs=(*STEPS.rungs, *OWN),
    # the baseline and the ten steps' top at the workload's batch are measured in the same run
    numbers=(0, 9, *range(STEPS.top + 1, STEPS.top + len(OWN) + 1)),
)

"""Beyond rung 10: the fastest training step that plain PyTorch gives, one change at a time."""

from common.ladder import Ladder
from ladders.beyond import (
    step11_loss_in_graph,
    step12_chunked_head,
    step13_fused_qkv,
    step14_narrow_heads,
    step15_product_format,
    step16_int8_logits,
    step17_page_faults,
    step18_no_dropout,
    step19_attention_backend,
    step20_resident_tokens,
    step21_compile_mode,
    step22_float8,
    step23_largest_batch,
)
from steps import LADDER as STEPS

OWN = (
    step11_loss_in_graph,
    step12_chunked_head,
    step13_fused_qkv,
    step14_narrow_heads,
    step15_product_format,
    step16_int8_logits,
    step17_page_faults,
    step18_no_dropout,
    step19_attention_backend,
    step20_resident_tokens,
    step21_compile_mode,
    step22_float8,
    step23_largest_batch,
)
LADDER = Ladder(
    name="ladders.beyond",
    rungs=(*STEPS.rungs, *OWN),
    # the baseline and the ten steps' top at the workload's batch are measured in the same run
    numbers=(0, 9, *range(STEPS.top + 1, STEPS.top + len(OWN) + 1)),
)

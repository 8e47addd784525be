"""Beyond rung 10: the fastest training step that plain PyTorch gives, one change at a time."""

from common.ladder import Ladder
from common.train_metrics import TRAINING
from ladders.beyond import (
    step11_loss_in_graph,
    step12_page_faults,
    step13_chunked_head,
    step14_fused_qkv,
    step15_narrow_heads,
    step16_product_format,
    step17_int8_logits,
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
    step12_page_faults,
    step13_chunked_head,
    step14_fused_qkv,
    step15_narrow_heads,
    step16_product_format,
    step17_int8_logits,
    step18_no_dropout,
    step19_attention_backend,
    step20_resident_tokens,
    step21_compile_mode,
    step22_float8,
    step23_largest_batch,
)
LADDER = Ladder(
    name="ladders.beyond",
    workload=TRAINING,
    rungs=(*STEPS.rungs, *OWN),
    # the baseline and the ten steps' top at the workload's batch are measured in the same run
    numbers=(0, 9, *range(STEPS.top + 1, STEPS.top + len(OWN) + 1)),
)

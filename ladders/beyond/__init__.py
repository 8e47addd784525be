"""Beyond the steps' top: the fastest step that plain PyTorch gives, one change at a time."""

from common.engine.contract import Numerics
from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.train.recipe import Recipe
from common.workloads.train.workload import TRAINING
from ladders.beyond import (
    step01_loss_in_graph,
    step02_page_faults,
    step03_chunked_head,
    step04_fused_qkv,
    step05_product_format,
    step06_softmax_in_place,
    step07_blockwise_attention,
    step08_rows_that_were_read,
    step09_gelu_by_a_sigmoid,
    step10_int8_logits,
    step11_no_dropout,
    step12_attention_backend,
    step13_resident_tokens,
    step14_compile_mode,
    step15_float8,
    step16_largest_batch,
)
from steps import LADDER as STEPS

# the workload's own batch, on one device: a step that changes either is left out
AT_THIS_BATCH = tuple(
    rung.number for rung in STEPS.rungs if not {"batch_size", "data"} & {*rung.changes}
)


def foot(recipe: Recipe, device) -> Recipe:
    """The steps' top at this batch: those that apply here. What one leaves open is not tried."""
    return STEPS.compose(recipe, STEPS.applicable(AT_THIS_BATCH, recipe, device))


def under(recipe: Recipe, device) -> list[str]:
    """The steps that are in the foot, by name: each is proven to be in effect at every rung."""
    applied = STEPS.applicable(AT_THIS_BATCH, recipe, device)
    return [f"{STEPS.name} {number}" for number in applied]


LADDER = Ladder(
    name="ladders.beyond",
    workload=TRAINING,
    foot=foot,
    under=under,
    start="top of steps",
    declared=max((STEPS.numerics(n) for n in AT_THIS_BATCH), key=list(Numerics).index),
    reference="steps' baseline",
    purpose=Purpose(
        name={"en": "Training, beyond", "ja": "学習（その先）"},
        about={
            "en": "Training tokens per second, on top of all steps that apply here.",
            "ja": "適用できるステップをすべて入れた上での、学習の 1 秒あたりのトークン数。",
        },
    ),
    modules=(
        step01_loss_in_graph,
        step02_page_faults,
        step03_chunked_head,
        step04_fused_qkv,
        step05_product_format,
        step06_softmax_in_place,
        step07_blockwise_attention,
        step08_rows_that_were_read,
        step09_gelu_by_a_sigmoid,
        step10_int8_logits,
        step11_no_dropout,
        step12_attention_backend,
        step13_resident_tokens,
        step14_compile_mode,
        step15_float8,
        step16_largest_batch,
    ),
)

"""The compress ladder: how small, at what loss. Two stories: fewer bits, and fewer weights."""

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
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

MOST_NATS = 0.01  # of the held-out loss, that a recommended file may cost: 1 % of the perplexity


def trains_longer(row: dict) -> bool:
    """Whether a rung trains the base on: that by itself makes a model's loss less."""
    return row["name"] in [rung.title for rung in LADDER.rungs if "training" in rung.changes]


def held_against(row: dict) -> dict[str, str]:
    """What is against a file that is smaller, in words.

    A loss that longer training brought; or that its interval leaves more than MOST_NATS possible.
    """
    if trains_longer(row):
        return {
            "en": "trained longer than float32, which lowers any model's loss: see its controls",
            "ja": "float32 より長く学習しており、それだけで損失は下がる。対照と比べること",
        }
    if row["delta_high"] <= MOST_NATS:
        return {}
    return {  # also where it is not known
        "en": "the held-out loss may rise by more than 0.01 nats (1 % of perplexity)",
        "ja": "検証損失が 0.01 nat（パープレキシティの 1 %）を超えて上がる恐れがある",
    }


LADDER = Ladder(
    name="ladders.compress",
    workload=COMPRESS,
    start="float32",
    purpose=Purpose(
        name={"en": "Compression", "ja": "圧縮"},
        about={
            "en": "The bytes of the model's file, counted, and the change of the held-out loss.",
            "ja": "モデルのファイルのバイト数（数えた値）と、検証損失の変化。",
        },
        second="delta_loss",
        barred=held_against,
    ),
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

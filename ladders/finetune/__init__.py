"""The finetune ladder: few parameters, what they cost, and what they reach."""

from collections.abc import Callable

from common.engine.contract import Numerics
from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.workload import FINETUNE
from ladders.finetune import (
    step01_full,
    step02_adapter,
    step03_lora_query_value,
    step04_lora_everywhere,
    step05_merged,
    step06_switching,
    step07_prefix,
    step08_prompt,
    step09_dora,
    step10_qlora,
)

LADDER = Ladder(
    name="ladders.finetune",
    workload=FINETUNE,
    start="the base as it is",
    declared=Numerics.EXACT,
    purpose=Purpose(
        name={"en": "Fine-tuning", "ja": "ファインチューニング"},
        about={
            "en": "The held-out loss on new texts after equal tokens, and the trained parameters.",
            "ja": "同じトークン数の学習後の、新しいテキストの検証損失と、学習するパラメータ数。",
        },
        second="trainable_parameters",
    ),
    note="held-out loss: of both texts, after equal tokens; each method had the same three tries",
    modules=(
        step01_full,
        step02_adapter,
        step03_lora_query_value,
        step04_lora_everywhere,
        step05_merged,
        step06_switching,
        step07_prefix,
        step08_prompt,
        step09_dora,
        step10_qlora,
    ),
)


def method(number: int) -> Callable[[FinetuneRecipe], FinetuneRecipe]:
    """What that rung and those under it make of a recipe."""
    return lambda recipe: LADDER.compose(recipe, LADDER.chain(number))


METHODS = {  # that the scripts offer, by name
    "full": method(1),
    "adapter": method(2),
    "lora-qv": method(3),
    "lora": method(4),
    "prefix": method(7),
    "prompt": method(8),
    "dora": method(9),
    "qlora": method(10),
}

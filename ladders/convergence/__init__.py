"""The convergence ladder: tokens and seconds to a held-out loss."""

from dataclasses import replace

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.convergence.recipe import ConvergenceRecipe
from common.workloads.convergence.workload import CONVERGENCE
from ladders.convergence import (
    step01_warmup,
    step02_cosine,
    step03_one_cycle,
    step04_larger_batch,
    step05_clipping,
    step06_bfloat16_autocast,
    step07_bfloat16_weights,
    step08_muon,
)
from steps import LADDER as STEPS
from steps.step07_flash_attention import FlashAttention

# of the steps: what computes the same in float32, only sooner
AT_THE_FOOT = (1, 3, 6, 7)


def foot(recipe: ConvergenceRecipe, device) -> ConvergenceRecipe:
    """AdamW at a constant learning rate, in float32, with steps AT_THE_FOOT.

    Step 7 wants 16 bits on CUDA, for the kernel that it names; there another one does attention.
    """
    recipe = STEPS.compose(recipe, STEPS.applicable(AT_THE_FOOT, recipe, device))
    return replace(recipe, attention=FlashAttention) if device.type == "cuda" else recipe


LADDER = Ladder(
    name="ladders.convergence",
    workload=CONVERGENCE,
    foot=foot,
    start="constant rate",
    purpose=Purpose(
        name={"en": "Schedules and optimizers", "ja": "スケジュールと最適化手法"},
        about={
            "en": "Tokens to a held-out loss, over seeds, each choice with as many learning rates.",
            "ja": "目標の検証損失までのトークン数。シードを変えて反復し、学習率の候補は同数。",
        },
    ),
    note=(
        "tokens: bytes of text trained on until the held-out loss is at the target, the median of "
        "the seeds; inf: half of the seeds or more did not reach it"
    ),
    modules=(
        step01_warmup,
        step02_cosine,
        step03_one_cycle,
        step04_larger_batch,
        step05_clipping,
        step06_bfloat16_autocast,
        step07_bfloat16_weights,
        step08_muon,
    ),
)

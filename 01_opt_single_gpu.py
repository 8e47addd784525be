"""The top of the ladder: GPT-2 training on one device with all optimizations."""

import torch

from common.scripts.script import main
from common.workloads.train.recipe import LARGEST, Recipe
from ladders.finetune import METHODS
from steps.step01_causal_mask import MaskOnTheFly
from steps.step06_native_layers import NativeGELU
from steps.step07_flash_attention import FlashAttention

RECIPE = Recipe(
    mask=MaskOnTheFly,
    matmul_precision="high",
    fused_optimizer=True,
    pin_memory=True,
    dtype=torch.bfloat16,
    norm=torch.nn.LayerNorm,
    activation=NativeGELU,
    attention=FlashAttention,
    compile=True,
    vocab_multiple=64,
    batch_size=LARGEST,
)

if __name__ == "__main__":
    main(RECIPE, __doc__, methods=METHODS)

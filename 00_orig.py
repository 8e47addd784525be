"""The foot of the ladder: GPT-2 training with every choice at its plain default."""

import torch

from common.gpt.model import GELU, CausalAttention, LayerNorm, StoredMask
from common.scripts.script import main
from common.workloads.train.recipe import Recipe

RECIPE = Recipe(
    mask=StoredMask,
    matmul_precision="highest",
    fused_optimizer=False,
    pin_memory=False,
    dtype=torch.float32,
    norm=LayerNorm,
    activation=GELU,
    attention=CausalAttention,
    compile=False,
    vocab_multiple=1,
    batch_size=8,
)

if __name__ == "__main__":
    main(RECIPE, __doc__)

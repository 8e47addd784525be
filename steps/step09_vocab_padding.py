"""9. Vocabulary padding.

Changes: embedding and head get 50,304 rows, a multiple of 64, where the tokenizer has 50,257 ids.
Why faster: the head is the model's largest product. Tensor cores are most efficient if dimensions
are multiples of 8 in 16 bits, on an A100 of 64; at an odd width slower kernels run.
Cost: 47 columns more in the softmax. Their logits start at 0: if all logits were 0 the training
loss would be ln(50304/50257) = 0.0009 nats too high; at this initialisation it is 0.0008. Training
drives them down. Sampling must never return their ids.
When not: without tensor cores. Above torch.compile less is left to gain, as the compiler pads this
product by itself (x1.08 on an H200, LOG.md). On the CPU measured nothing was measurable.
Source: docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("vocab_multiple",)
NUMERICS = Numerics.DIFFERENT_WORK
MULTIPLE = 64


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    rows = {run.inner.token_embedding.num_embeddings, run.inner.head.out_features}
    if len(rows) != 1 or (count := rows.pop()) % MULTIPLE:
        raise NotInEffect(f"the vocabulary is not a multiple of {MULTIPLE}")
    return f"{count:,} rows"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, vocab_multiple=MULTIPLE)

"""9. Vocabulary padding.

Changes: embedding and head get 50,304 rows, a multiple of 64, where the tokenizer has 50,257 ids.
Why faster: tensor cores want dimensions that are multiples of 8 or more in 16 bits; the head's
product is the largest of the model, and at an odd width it falls back to slower kernels.
Cost: 47 columns more in the softmax. They start at logit 0, so the training loss starts about
0.0009 nats too high, and training drives them down. Sampling must never return their ids.
Source: docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication
"""

from dataclasses import replace

from common.build import Run
from common.ladder import NotInEffect
from common.recipe import Numerics, Recipe

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

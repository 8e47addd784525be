"""12. Magnitude pruning.

Changes: the smaller half of the weights in each row of a matrix become zeros.
Why smaller: in the file a zero costs one bit of a mask: 9 bits a weight instead of bfloat16's 16.
Cost: no product is faster and no memory is saved: the zeros lie anywhere, and are multiplied like
other numbers. As a sparse matrix (CSR) half zeros were slower, and 1.5 times larger (LOG.md).
When not: for speed (rungs 13, 14, and, on some GPUs, 16). Without training on, beyond half or so.
Source: Han et al. 2015, arXiv:1506.02626; pytorch issue 36214 ("pruning changes nothing").
Expected: more loss than int8 at more bytes.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from common.workloads.compress.sparse import Masked

CHANGES = ("format", "sparsity")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1
SPARSITY = 0.5


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    weights, kept = run.told["weights"], 0
    for name, tensor in run.compressed.tensors.items():
        kept += tensor.numel() * name.endswith(".kept")
    share = 1 - kept / weights
    if abs(share - run.recipe.sparsity) > 1e-3:
        raise NotInEffect(f"{share:.2%} of the weights are zeros")
    return f"{share:.1%} zeros; no speed is claimed"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=Masked, sparsity=SPARSITY)

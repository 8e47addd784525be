"""16. 2:4 sparsity.

Changes: of each four neighbours in a row of a block's matrices the two smallest become zeros.
Why smaller: 9 bits a weight instead of 16, in memory, too; an Ampere GPU's sparse products skip the
zeros, and may be twice as fast where arithmetic is the bound.
Cost: half of the weights, in a pattern that fits no matrix: loss, without training on.
When not: for few rows, which are bound by bytes and overhead (pytorch/tutorials issue 3236:
slower); on any other device.
Source: Mishra et al. 2021, arXiv:2104.08378; torch.sparse.to_sparse_semi_structured.
Expected: prefill faster than bfloat16's at GPT-2's width; decoding not.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.choices import Everything
from common.workloads.compress.formats import Plain
from common.workloads.compress.parts import EMBEDDING, HEAD
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run, kernel_calls
from common.workloads.compress.sparse import TwoFour

CHANGES = ("format", "choice")
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 1


class BlocksOnly(Everything):
    """The embedding and the head as they are."""

    @staticmethod
    def recipes(parts, recipe, base, settings, told):
        apart = dict.fromkeys((EMBEDDING, HEAD), Plain)
        return {
            name: replace(recipe, format=apart.get(name, recipe.format)) for name in parts.matrices
        }


def applies(device, recipe: CompressRecipe) -> str | None:
    if device.vendor != "nvidia" or device.capability < (8, 0):
        return "sparse products are of NVIDIA's capability 8.0 and up"
    return None


def in_effect(run: Run) -> str:
    called, due = kernel_calls(run)
    if called != due or not due:
        raise NotInEffect(f"{called} of {due} products took the sparse kernel")
    return f"{due // run.new_tokens} products a token"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, format=TwoFour, choice=BlocksOnly)

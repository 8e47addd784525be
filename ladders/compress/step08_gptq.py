"""8. GPTQ.

Changes: the codes of a matrix are chosen column by column. What rounding a column costs the outputs
is made good by the columns that are not rounded yet, by the inputs' second moments H = X^T X on the
calibration text: w -= error / U[j, j] U[j, j+1:], U the upper Cholesky factor of H's inverse.
Why smaller: no smaller than rung 5; the same codes lose less.
Cost: K^3 for a factor, and a text that is like what will be read. H is damped by 1 % of its mean
diagonal, or noise is inverted; an input that is always 0 has weights that do not matter: 0.
When not: without such a text; with many bits, where the nearest codes lose nothing.
Source: Frantar et al. 2022, GPTQ, arXiv:2210.17323. H is of float32's inputs, taken at once.
Expected: half of rung 5's loss or less (LLaMA-7B, 4 bits: 6.29 to 6.09; 3 bits: 25.5 to 8.07).
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress.calibration import inverse_factor
from common.workloads.compress.choices import Nearest
from common.workloads.compress.grids import joined
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run

CHANGES = ("rounding",)
NUMERICS = Numerics.LOWER_PRECISION
BASE = 5
DAMPING, BLOCK = 0.01, 128  # of the mean diagonal; columns at a time: the paper's


class GPTQ(Nearest):
    @staticmethod
    def choose(kind, weight, recipe, inputs):
        if inputs is None:  # a table that is looked up only
            return Nearest.choose(kind, weight, recipe, inputs)
        left, codes, grids = weight.clone(), torch.empty_like(weight), []
        dead, factor = inverse_factor(inputs().gram, DAMPING)
        left[:, dead] = 0
        width = kind.columns(weight, recipe)
        for begin in range(0, weight.shape[1], min(width, BLOCK)):
            end = min(begin + min(width, BLOCK), weight.shape[1])
            if begin % width == 0:  # of weights as they are by now
                grids.append(kind.fit(left[:, begin : begin + width], recipe).stored())
            errors = torch.zeros_like(left[:, begin:end])
            for j in range(begin, end):
                column = left[:, j : j + 1]  # (N, 1)
                codes[:, j : j + 1] = grids[-1].codes(column)
                error = (column - grids[-1].values(codes[:, j : j + 1])) / factor[j, j]
                left[:, j + 1 : end] -= error * factor[j, j + 1 : end]
                errors[:, j - begin : j - begin + 1] = error
            left[:, end:] -= errors @ factor[begin:end, end:]
        return joined(grids), codes


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.recipe.rounding is not GPTQ:
        raise NotInEffect("codes were chosen otherwise")
    return f"{len(run.told['formats'])} matrices"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, rounding=GPTQ)

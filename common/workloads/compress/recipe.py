"""A recipe says how a model is made smaller. A rung of the ladder `compress` changes its fields."""

from dataclasses import dataclass

import torch

from common.workloads.compress.choices import (
    AsTrained,
    Everything,
    Magnitude,
    Nearest,
    Unpruned,
    Unscaled,
)
from common.workloads.compress.formats import Format, Plain
from common.workloads.train.recipe import Written


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressRecipe(Written):
    """Every choice that a rung may make, at its plain default. Each field is read in one place."""

    dtype: torch.dtype = torch.float32  # of activations, and of weights that are not compressed
    training: type[AsTrained] = AsTrained  # what is trained before anything is left out or rounded
    pruning: type[Unpruned] = Unpruned  # which heads and neurons are taken out
    scores: type[Magnitude] = Magnitude  # what these are chosen by
    scaling: type[Unscaled] = Unscaled  # what is moved between activations and weights
    choice: type[Everything] = Everything  # which matrix is kept in which format
    format: type[Format] = Plain  # how a matrix is kept and multiplied
    rounding: type[Nearest] = Nearest  # how the codes of its weights are chosen
    bits: int = 4  # of a code, in formats that leave it open
    group: int = 32  # weights of a row that share a scale, likewise
    sparsity: float = 0.0  # the share of each matrix's weights that are zeros

    def controls(self) -> dict[str, "CompressRecipe"]:
        """What the recipe's result is to be held against, by name."""
        return self.training.controls(self) | self.pruning.controls(self)

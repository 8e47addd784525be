"""A recipe says how a model is made smaller. A rung of the ladder `compress` changes its fields."""

from dataclasses import dataclass, fields

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
from common.workloads.train.recipe import imported, plain, rebuilt, recognized


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressRecipe:
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

    def to_json(self) -> dict:
        """The fields as plain values: classes and dtypes by name."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, values: dict) -> "CompressRecipe":
        """The recipe that `to_json` wrote. Imports the modules it names: for trusted jobs only."""
        return rebuilt(values, imported, cls)

    @classmethod
    def from_record(cls, values: dict) -> "CompressRecipe":
        """The same from a file: only types of this project and of torch. Raises ValueError."""
        return rebuilt(values, recognized, cls)

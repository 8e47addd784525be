"""What each weight matrix of a model reads on the calibration text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from common.workloads.compress.model import of_parts
from common.workloads.compress.parts import EMBEDDING, HEAD, Parts


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a matrix reads, over all calibration tokens: K inputs."""

    largest: torch.Tensor  # (K,) magnitudes
    mean: torch.Tensor  # (K,) of magnitudes
    gram: torch.Tensor  # (K, K): X^T X over the number of tokens


class Statistics:
    """What each matrix of a model reads on the calibration text, taken when it is first asked."""

    def __init__(self, parts: Parts, calibration: list[torch.Tensor]) -> None:
        self.parts, self.calibration = parts, calibration

    def maker(self, name: str) -> Callable[[], Inputs] | None:
        """What gives a matrix's inputs; None: it is looked up only, and reads none."""
        if name == EMBEDDING and HEAD in self.parts.matrices:
            return None
        return lambda: self.found[name]

    @cached_property
    def found(self) -> dict[str, Inputs]:
        model, sums = of_parts(self.parts), {}
        head = HEAD if HEAD in self.parts.matrices else EMBEDDING
        for name in self.parts.matrices:
            if name not in (EMBEDDING, HEAD):
                model.get_submodule(name).register_forward_pre_hook(self.adding_to(sums, name))
        for ids in self.calibration:  # the head's own product, the largest, need not be made
            self.adding_to(sums, head)(model.head, (model.hidden(ids[None, :-1]),))
        count = sum(len(ids) - 1 for ids in self.calibration)
        return {
            name: Inputs(largest, total / count, gram / count)
            for name, (largest, total, gram) in sums.items()
        }

    @staticmethod
    def adding_to(sums: dict, name: str):
        def add(layer, given: tuple[torch.Tensor]) -> None:
            rows = given[0].flatten(0, -2)  # (M, K)
            own = [rows.abs().amax(0), rows.abs().sum(0), rows.t() @ rows]
            if name in sums:
                before = sums[name]
                own = [torch.maximum(before[0], own[0]), before[1] + own[1], before[2] + own[2]]
            sums[name] = own

        return add


def inverse_factor(gram: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which inputs are always 0 (K,), and U (K, K), upper, with U^T U the inverse of the moments.

    The moments are damped by that share of their mean diagonal, or noise would be inverted.
    """
    moments, dead = gram.double(), gram.diagonal() == 0
    moments.diagonal()[dead] = 1
    moments.diagonal().add_(damping * moments.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    return dead, torch.linalg.cholesky(inverse, upper=True).float()

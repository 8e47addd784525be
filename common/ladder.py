"""A ladder: numbered rungs over a baseline recipe. A rung is a module; see CONTRIBUTING.md."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from common.recipe import Numerics, Recipe


class NotInEffect(Exception):
    """A rung's probe found that its change did not take effect. The row is failed, not timed."""


@dataclass(frozen=True)
class Ladder:
    """Rung 0 is the baseline; rung n is the nth module."""

    name: str  # the package that holds it, importable
    rungs: tuple[ModuleType, ...]

    @property
    def top(self) -> int:
        return len(self.rungs)

    def rung(self, number: int) -> ModuleType:
        """The module of rung 1 to top."""
        return self.rungs[number - 1]

    def title(self, number: int) -> str:
        """The rung's name, from the first line of its docstring: '7. FlashAttention.'"""
        if number == 0:
            return "baseline"
        return re.match(r"\d+\. (.+)\.", self.rung(number).__doc__)[1]

    def numerics(self, number: int) -> Numerics:
        """What the rung declares; the baseline is only rounded."""
        return self.rung(number).NUMERICS if number else Numerics.ROUNDING

    def compose(self, baseline: Recipe, numbers: Iterable[int]) -> Recipe:
        """The baseline with the changes of the given rungs, in order."""
        for number in sorted(numbers):
            if number:
                baseline = self.rung(number).apply(baseline)
        return baseline

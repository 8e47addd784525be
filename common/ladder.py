"""A ladder: numbered rungs over a baseline recipe. A rung is a module; see CONTRIBUTING.md."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from common.engine.metric import Workload
from common.recipe import Numerics, Recipe


class NotInEffect(Exception):
    """A rung's probe found that its change did not take effect. The row is failed, not timed."""


class DoesNotApply(Exception):
    """A rung cannot act here, as only the process that measures it could tell. The row is n/a."""


@dataclass(frozen=True)
class Ladder:
    """Rung 0 is the baseline; rung n is the nth module.

    A rung adds its change to the one below it, or to the one that it names as its BASE.
    """

    name: str  # the package that holds it, importable
    rungs: tuple[ModuleType, ...]
    attribute: str = "LADDER"  # its own name in that package
    foot: Callable[[Recipe, object], Recipe] = lambda recipe, device: recipe  # a preset's, changed
    numbers: tuple[int, ...] | None = None  # the rungs to measure unless asked; None: all
    workload: Workload | None = None  # what its figures are
    published: Callable[[], dict[str, dict[int, str]]] = dict  # gains from elsewhere, by title
    note: str = ""  # what its figures are not

    @property
    def address(self) -> str:
        """Where a child process finds it, as pkgutil.resolve_name takes it."""
        return f"{self.name}:{self.attribute}"

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

    def named_base(self, number: int) -> int | None:
        """The rung that this one says it adds to, and cannot do without; None for a stair's."""
        return getattr(self.rung(number), "BASE", None)

    def base(self, number: int) -> int:
        """The rung that this one adds to."""
        named = self.named_base(number)
        return number - 1 if named is None else named

    def chain(self, number: int) -> list[int]:
        """The rungs from the baseline to this one, through their bases."""
        return [*self.chain(self.base(number)), number] if number else []

    def compose(self, baseline: Recipe, numbers: Iterable[int]) -> Recipe:
        """The baseline with the changes of the given rungs, in order."""
        for number in sorted(numbers):
            if number:
                baseline = self.rung(number).apply(baseline)
        return baseline

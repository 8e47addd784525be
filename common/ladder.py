"""A ladder: numbered rungs over a baseline recipe. A rung is a module; see CONTRIBUTING.md."""

import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from common.engine.errors import UserError
from common.engine.metric import Workload
from common.engine.rungs import REFERENCE
from common.recipe import Numerics, Recipe


class NotInEffect(Exception):
    """A rung's probe found that its change did not take effect. The row is failed, not timed."""


class DoesNotApply(Exception):
    """A rung cannot act here, as only the process that measures it could tell. The row is n/a."""


TITLE = re.compile(r"(?:\d+\. )?(.+)\.")  # of a docstring that begins: "7. FlashAttention."
PARTS = {  # what a rung module has beside it, and of which kind
    "CHANGES": tuple,
    "NUMERICS": Numerics,
    "applies": Callable,
    "in_effect": Callable,
    "apply": Callable,
}
OPTIONAL = {"BASE": int, "candidates": Callable}


def check_contract(number: int, module: ModuleType) -> None:
    """Raises UserError, which names the rung and the part, where a module is no whole rung."""
    name = getattr(module, "__name__", f"rung {number}")
    if not TITLE.match(module.__doc__ or ""):
        raise UserError(f'{name}: its docstring must begin with "{number}. Title."')
    for part, kind in (PARTS | OPTIONAL).items():
        if part in OPTIONAL and not hasattr(module, part):
            continue
        if not isinstance(getattr(module, part, None), kind):
            raise UserError(f"{name}: {part} must be there, of type {kind.__name__}")


@dataclass(frozen=True)
class Ladder:
    """Rung 0 is the baseline, or what the foot makes of it; rung n is the nth module.

    A rung adds its change to the one below it, or to the one that it names as its BASE. A ladder
    that stands on rungs of another one says which, so that they are proven as well, and may have
    the recipe below all of them measured with rung 0, as its reference.
    """

    name: str  # the package that holds it, importable
    rungs: tuple[ModuleType, ...]
    attribute: str = "LADDER"  # its own name in that package
    foot: Callable[[Recipe, object], Recipe] = lambda recipe, device: recipe  # a preset's, changed
    workload: Workload | None = None  # what its figures are
    published: Callable[[list[dict]], dict[str, dict[int, str]]] = lambda records: {}  # gains
    under: Callable[[Recipe, object], list[str]] = lambda recipe, device: []  # in it: "steps 7"
    start: str = "baseline"  # rung 0's name
    declared: Numerics = Numerics.ROUNDING  # what the foot may do to the numbers
    reference: str = ""  # the name of the preset's own recipe, if rung 0 is measured beside it
    note: str = ""  # what its figures are not

    def __post_init__(self) -> None:
        for number, module in enumerate(self.rungs, start=1):
            check_contract(number, module)

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
        if number <= 0:
            return self.reference if number == REFERENCE else self.start
        return TITLE.match(self.rung(number).__doc__)[1]

    def numerics(self, number: int) -> Numerics:
        """What the rung declares; a recipe without rungs is only rounded."""
        if number <= 0:
            return Numerics.ROUNDING if number == REFERENCE else self.declared
        return self.rung(number).NUMERICS

    def named_base(self, number: int) -> int | None:
        """The rung that this one says it adds to, and cannot do without; None for a stair's."""
        return getattr(self.rung(number), "BASE", None)

    def base(self, number: int) -> int:
        """The rung that this one adds to."""
        named = self.named_base(number)
        return number - 1 if named is None else named

    def chain(self, number: int) -> list[int]:
        """The rungs from the baseline to this one, through their bases."""
        return [*self.chain(self.base(number)), number] if number > 0 else []

    def candidates(self, number: int, device, below: Recipe) -> dict[str, Recipe]:
        """What may be made of the recipe below, by label; none where nothing is left open."""
        offered = getattr(self.rung(number), "candidates", None) if number > 0 else None
        return offered(device, below) if offered else {}

    def applicable(self, numbers: Iterable[int], recipe: Recipe, device) -> list[int]:
        """Those of the rungs that apply, each asked on top of the ones before it."""
        found = []
        for number in numbers:
            if self.rung(number).applies(device, recipe) is None:
                recipe = self.rung(number).apply(recipe)
                found.append(number)
        return found

    def compose(self, baseline: Recipe, numbers: Iterable[int]) -> Recipe:
        """The baseline with the changes of the given rungs, in order."""
        for number in sorted(numbers):
            if number:
                baseline = self.rung(number).apply(baseline)
        return baseline


def rung_named(name: str) -> ModuleType:
    """The module of "steps 7": a ladder's package, and a number."""
    package, number = name.split()
    return pkgutil.resolve_name(f"{package}:LADDER").rung(int(number))

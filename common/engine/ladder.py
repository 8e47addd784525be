"""A ladder: numbered rungs over a foot. A rung is a module that CONTRIBUTING.md describes."""

import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from common.engine.contract import Numerics
from common.engine.errors import UserError
from common.engine.purpose import Purpose
from common.engine.rungs import REFERENCE
from common.engine.workload import Workload

TITLE = re.compile(r"(?:\d+\. )?(.+)\.")  # of a docstring that begins: "7. FlashAttention."
PARTS = {  # what a rung module has beside it, and of which kind
    "CHANGES": tuple,
    "NUMERICS": Numerics,
    "applies": Callable,
    "in_effect": Callable,
    "apply": Callable,
}
OPTIONAL = {"BASE": int, "OVER": int, "candidates": Callable, "lines": Callable}


def no_candidates(device, below) -> dict:
    """What a rung that leaves nothing open offers."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One change. CONTRIBUTING.md says what each part means."""

    number: int  # in its ladder, from 1
    module: ModuleType
    title: str
    changes: tuple[str, ...]  # the recipe's fields that it may touch
    numerics: Numerics
    applies: Callable[[Any, Any], str | None]  # device and recipe: None, or why it cannot act
    in_effect: Callable[[Any], str]  # what was seen of it; raises NotInEffect
    apply: Callable[[Any], Any]  # a recipe to a recipe
    named_base: int | None = None  # the rung that it says it adds to, and cannot do without
    over: int | None = None  # likewise, but it can: then it adds to what is left below that one
    candidates: Callable[[Any, Any], dict[str, Any]] = no_candidates  # device, the recipe below
    lines: Callable[[str, Any], list[str]] | None = None  # to write in code of one's own

    @property
    def base(self) -> int:
        """The rung that this one adds to: the one below, if it names none."""
        named = self.over if self.named_base is None else self.named_base
        return self.number - 1 if named is None else named

    @classmethod
    def of(cls, number: int, module: ModuleType) -> "Rung":
        """Raises UserError, which names the rung and the part, where a module is no whole rung."""
        name = getattr(module, "__name__", f"rung {number}")
        if not (title := TITLE.match(module.__doc__ or "")):
            raise UserError(f'{name}: its docstring must begin with "{number}. Title."')
        for part, kind in (PARTS | OPTIONAL).items():
            if part in OPTIONAL and not hasattr(module, part):
                continue
            if not isinstance(getattr(module, part, None), kind):
                raise UserError(f"{name}: {part} must be there, of type {kind.__name__}")
        return cls(
            number=number,
            module=module,
            title=title[1],
            changes=module.CHANGES,
            numerics=module.NUMERICS,
            applies=module.applies,
            in_effect=module.in_effect,
            apply=module.apply,
            named_base=getattr(module, "BASE", None),
            over=getattr(module, "OVER", None),
            candidates=getattr(module, "candidates", no_candidates),
            lines=getattr(module, "lines", None),
        )


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Rung 0 is the workload's own recipe, or what the foot makes of it; rung n the nth module.

    A rung adds its change to the one below it, or to the one that it names as its BASE. A ladder
    that stands on rungs of another one says which, so that they are proven as well, and may have
    the recipe below all of them measured with rung 0, as its reference.
    """

    name: str  # the package that holds it, or "module:NAME" where it is not called LADDER
    workload: Workload
    modules: tuple[ModuleType, ...]
    foot: Callable[[Any, Any], Any] = lambda recipe, device: recipe  # the workload's, changed
    published: Callable[[], dict[str, dict[int, str]]] = dict  # gains of elsewhere, by rung
    under: Callable[[Any, Any], list[str]] = lambda recipe, device: []  # in the foot: "steps 7"
    start: str = "baseline"  # rung 0's name
    declared: Numerics = Numerics.ROUNDING  # what the foot may do to the numbers
    reference: str = ""  # the name of the workload's own recipe, if measured beside rung 0
    note: str = ""  # a caution for whoever reads its figures
    attributed: bool = False  # rungs may be measured alone, and left out of the stair
    purpose: Purpose | None = None  # None: it is not among all the ladders of one run
    rungs: tuple[Rung, ...] = field(init=False)

    def __post_init__(self) -> None:
        rungs = (Rung.of(number, module) for number, module in enumerate(self.modules, start=1))
        object.__setattr__(self, "rungs", tuple(rungs))

    @property
    def address(self) -> str:
        """Where a child process finds it."""
        return self.name if ":" in self.name else f"{self.name}:LADDER"

    @property
    def top(self) -> int:
        return len(self.rungs)

    def rung(self, number: int) -> Rung:
        """Rung 1 to top."""
        return self.rungs[number - 1]

    def title(self, number: int) -> str:
        """The rung's name for people."""
        if number <= 0:
            return self.reference if number == REFERENCE else self.start
        return self.rung(number).title

    def numerics(self, number: int) -> Numerics:
        """What the rung declares; a recipe without rungs is only rounded."""
        if number <= 0:
            return Numerics.ROUNDING if number == REFERENCE else self.declared
        return self.rung(number).numerics

    def chain(self, number: int) -> list[int]:
        """The rungs from the foot to this one, through their bases."""
        return [*self.chain(self.rung(number).base), number] if number > 0 else []

    @property
    def stair(self) -> list[int]:
        """The longest chain: all rungs, where none branches off."""
        return max((self.chain(rung.number) for rung in self.rungs), key=len, default=[])

    def applicable(self, numbers: Iterable[int], recipe, device) -> list[int]:
        """Those of the rungs that apply, each asked on top of the ones before it."""
        found = []
        for number in numbers:
            if self.rung(number).applies(device, recipe) is None:
                recipe = self.rung(number).apply(recipe)
                found.append(number)
        return found

    def compose(self, recipe, numbers: Iterable[int]):
        """The recipe with the changes of the given rungs, in order."""
        for number in sorted(numbers):
            if number:
                recipe = self.rung(number).apply(recipe)
        return recipe


def ladder_at(address: str) -> Ladder:
    """The ladder that a job names."""
    return pkgutil.resolve_name(address)


def rung_named(name: str) -> Rung:
    """The rung of "steps 7": a ladder's package, and a number."""
    package, number = name.split()
    return ladder_at(f"{package}:LADDER").rung(int(number))

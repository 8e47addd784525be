"""What a child process is to do, as the parent writes it. The child reads it as plain JSON."""

from dataclasses import dataclass

from common.measure import Settings
from common.recipe import Numerics, Recipe


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a recipe is compared with before it is timed, and what its rung declares."""

    baseline: Recipe
    below: Recipe  # the same rungs without the one that is checked
    numerics: Numerics

    def to_json(self) -> dict:
        return {
            "baseline": self.baseline.to_json(),
            "below": self.below.to_json(),
            "numerics": self.numerics.value,
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task for one fresh process."""

    recipe: Recipe
    settings: Settings
    kind: str = "rung"  # or "ceilings"
    ladder: str = ""  # where the child finds the applied rungs
    applied: tuple[int, ...] = ()  # rungs whose probes must pass
    under: tuple[str, ...] = ()  # likewise, of the ladder that this one stands on: "steps 7"
    check: Check | None = None  # None: no equivalence check
    formats: tuple[str, ...] = ()  # of the products that "ceilings" measures

    def to_json(self) -> dict:
        values = {
            "kind": self.kind,
            "ladder": self.ladder,
            "applied": list(self.applied),
            "under": list(self.under),
            "recipe": self.recipe.to_json(),
            "settings": self.settings.to_json(),
            "formats": list(self.formats),
        }
        return values | ({"check": self.check.to_json()} if self.check else {})

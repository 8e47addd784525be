"""What a child process is to do. The parent makes it; the child reads it as plain JSON."""

import json
from dataclasses import dataclass
from typing import Any

from common.engine.contract import Numerics
from common.engine.session import Settings
from common.engine.workload import Launch, Workload


@dataclass(frozen=True, kw_only=True)
class Against:
    """What a recipe is compared with before it is timed, and what its rung declares."""

    baseline: Any  # without any rung
    below: Any  # the same rungs without the one that is checked
    numerics: Numerics

    def to_json(self, workload: Workload) -> dict:
        return {
            "baseline": workload.dump(self.baseline),
            "below": workload.dump(self.below),
            "numerics": self.numerics.value,
        }

    @classmethod
    def from_json(cls, values: dict, workload: Workload) -> "Against":
        return cls(
            baseline=workload.load(values["baseline"]),
            below=workload.load(values["below"]),
            numerics=Numerics(values["numerics"]),
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task for one fresh process, or for several that one command starts."""

    workload: Workload
    recipe: Any
    settings: Settings
    kind: str = "rung"  # or "ceilings"
    ladder: str = ""  # where the child finds the applied rungs
    applied: tuple[int, ...] = ()  # rungs whose probes must pass
    under: tuple[str, ...] = ()  # likewise, of the ladder that this one stands on: "steps 7"
    check: Against | None = None  # None: no equivalence check
    turns: bool = False  # time steps whenever it is asked to, not all at once

    def launch(self) -> Launch:
        """A device's ceilings take one process, whatever the recipe takes."""
        if self.kind == "ceilings":
            return Launch()
        return self.workload.of(self.recipe).launch(self.recipe)

    def line(self) -> str:
        """As a child reads it."""
        return json.dumps(self.to_json())

    def to_json(self) -> dict:
        values = {
            "kind": self.kind,
            "workload": self.workload.address,
            "ladder": self.ladder,
            "applied": list(self.applied),
            "under": list(self.under),
            "recipe": self.workload.dump(self.recipe),
            "settings": self.settings.to_json(),
            "turns": self.turns,
        }
        return values | ({"check": self.check.to_json(self.workload)} if self.check else {})

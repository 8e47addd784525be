"""What a run measures: which rungs, on top of which, how often, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.device import DeviceFacts
from common.engine.rungs import REFERENCE
from common.ladder import Ladder
from common.measure import Settings
from common.recipe import Recipe

LADDER, ALONE, WITHOUT = "ladder", "alone", "without"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure and how."""

    ladder: Ladder
    baseline: Recipe
    device: DeviceFacts
    settings: Settings
    plain: Recipe | None = None  # what the ladder's foot made the baseline of; None: it made none
    under: tuple[str, ...] = ()  # rungs of another ladder that are in the baseline, to be proven
    numbers: tuple[int, ...]  # the rungs to measure
    alone: tuple[int, ...] = ()  # rungs to measure by themselves on the baseline
    without: tuple[int, ...] = ()  # rungs to leave out of the full stack
    rounds: int = 1
    preset: str = ""
    timeout: float  # seconds for one child
    search_s: float  # seconds for the search of the largest batch, on a CPU
    note: str = ""
    profile: bool = False  # the first round, too: where the time of a step goes
    traces: Path | None = None  # a folder for what the profiles saw

    @property
    def reference(self) -> Recipe:
        """The recipe without any rung, which the check before the clock compares with."""
        return self.plain or self.baseline

    def jobs(self) -> list[tuple[str, int]]:
        """(series, rung) of one round, in climbing order."""
        return [
            *((LADDER, number) for number in self.numbers),
            *((ALONE, number) for number in self.alone),
            *((WITHOUT, number) for number in self.without),
        ]

    def schedule(self) -> Iterator[tuple[int, str, int]]:
        """(round, series, rung): up, down, up, so that a machine's drift meets every rung alike."""
        for turn in range(1, self.rounds + 1):
            jobs = self.jobs() if turn % 2 else self.jobs()[::-1]
            yield from ((turn, series, number) for series, number in jobs)

    def settings_of(self, turn: int, series: str, number: int) -> Settings:
        """How one job is measured: in the first round of the ladder perhaps with a profile."""
        if not self.profile or turn > 1 or series != LADDER:
            return self.settings
        name = "reference" if number == REFERENCE else f"rung-{number:02}"
        trace = self.traces and str(self.traces.resolve() / f"{name}.json")
        return replace(self.settings, profile=True, trace=trace)


@dataclass
class Prefix:
    """What one job measures, once it is known: set in the first round, the same in all."""

    applied: list[int]
    recipe: Recipe | None = None  # None: not to be measured
    status: str = ""
    reason: str = ""
    note: str = ""
    candidates: dict[str, float | None] = field(default_factory=dict)  # tok/s of what was tried
    refused: dict[str, dict] = field(default_factory=dict)  # why those without a rate have none
    settled: bool = False  # whether the recipe leaves nothing open

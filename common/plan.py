"""What a run measures: which rungs, on top of which, how often, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.device import DeviceFacts
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
        trace = self.traces and str(self.traces.resolve() / f"rung-{number:02}.json")
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

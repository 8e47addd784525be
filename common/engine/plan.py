"""What a run measures: which rungs, on top of which, how often, and in which order."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from common.engine.device import DeviceFacts
from common.engine.ladder import Ladder
from common.engine.session import Settings

LADDER, ALONE, WITHOUT = "ladder", "alone", "without"
TWIN = "twin"  # one rung once more: how the same thing differs from itself


@dataclass(frozen=True, kw_only=True)
class Turns:
    """That the rungs' processes take turns, and for how long."""

    resolution: float  # a gain as a share: what is smaller need not be told apart from none
    budget_s: float  # for the whole run
    steps: int | None = None  # timed steps of each process; None: as the budget allows

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure and how."""

    ladder: Ladder
    baseline: Any  # the recipe that rung 0 measures
    device: DeviceFacts
    settings: Settings
    plain: Any = None  # what the ladder's foot made the baseline of; None: it made none
    under: tuple[str, ...] = ()  # rungs of another ladder that are in the baseline, to be proven
    numbers: tuple[int, ...]  # the rungs to measure
    alone: tuple[int, ...] = ()  # rungs to measure by themselves on the baseline
    without: tuple[int, ...] = ()  # rungs to leave out of the full stack
    rounds: int = 1  # where no turns are taken
    turns: Turns | None = None
    preset: str = ""
    timeout: float  # seconds for one child
    first: Callable[[int], Settings] | None = None  # the first round's settings by rung, if others

    @property
    def reference(self) -> Any:
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
        """How one job is measured: in the first round of the ladder perhaps more closely."""
        closely = self.first and turn == 1 and series == LADDER
        settings = self.first(number) if closely else self.settings
        return self.ladder.workload.seeded(settings, turn)


@dataclass
class Combination:
    """The rungs that one job measures together, once known: the same in all rounds."""

    applied: list[int]
    recipe: Any = None  # None: not to be measured
    status: str = ""
    reason: str = ""
    note: str = ""
    candidates: dict[str, float | None] = field(default_factory=dict)  # rates of what was tried
    refused: dict[str, dict] = field(default_factory=dict)  # why those without a rate have none
    first_try: dict = field(default_factory=dict)  # of the chosen one: see Settled
    settled: bool = False  # whether the recipe leaves nothing open
    checked: bool = False  # whether it was found equivalent

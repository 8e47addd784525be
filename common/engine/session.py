"""A recipe of a workload, built in a process of its own and ready to be stepped."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from common.engine.clock import Clock, HostClock
from common.engine.device import GIB, free_memory_gib


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure; the same for every rung of a run. A workload adds its own."""

    device: str = "cpu"  # the type
    steps: int = 1  # timed
    warmup: int = 2  # before them: the first may compile, the second is looked into for the probes

    def to_json(self) -> dict:
        """As a job has them."""
        return asdict(self)

    def recorded(self) -> dict:
        """As records have them, which may be moved: without folders of this machine."""
        return self.to_json()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The timed steps of one process. Seconds."""

    step_s: list[float]  # each step
    window_s: float  # the host's time from edge to edge
    cpu_s: float  # processor time of this process and of what it started


class Session:
    """A recipe, built and ready to be stepped. The engine owns the clock around the steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def probed(self) -> Any:
        """What rungs look at to see whether their change took effect."""
        return self

    def step(self) -> None:
        """One step: what the clock runs around."""
        raise NotImplementedError

    def clock(self) -> Clock:
        return HostClock(lambda: None)

    def look(self) -> None:
        """The second step, looked into for the probes' sake."""
        self.step()

    def ready(self) -> None:
        """The warm-up is over; the rungs look next."""

    def begin(self) -> None:
        """The timed steps are next: take down what the audit compares with."""

    def more(self, done: int) -> bool:
        """Whether another step is to be timed after so many."""
        return done < self.settings.steps

    def end(self) -> None:
        """The timed steps are over: read what later work would change."""

    def audit(self) -> None:
        """Did the timed steps do the work? Raises Disturbed if not."""

    def room(self) -> tuple[float, float]:
        """GiB that this process holds of what is scarce, and GiB of it that are free."""
        process = psutil.Process()
        return process.memory_info().rss / GIB, free_memory_gib()

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict[str, Any]:
        """The workload's own figures, for the record; may replace those of `timed`.

        What is measured after the timed steps is measured here; `tell` is given what is begun.
        """
        return {}

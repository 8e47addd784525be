"""How large a batch fits: doubled until memory, time, or the text ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from common.engine.device import GIB
from common.engine.process import Outcome
from common.engine.settle import Trials, Unsettled
from common.workloads.train.recipe import Recipe

RAM_SHARE = 0.5  # on a CPU, of the memory that is free when the search starts
UNFIT = 1.1  # a forecast of so many times the device's memory is not tried


class SearchFailed(Unsettled):
    """A try failed for another reason than memory: how large a batch fits is not known."""

    def __init__(self, batch_size: int, outcome: Outcome) -> None:
        super().__init__(f"the search failed at batch {batch_size}: {outcome.reason}", outcome)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A batch that trained, and what ended the search."""

    batch_size: int
    why: str


def find_largest(
    recipe: Recipe,
    start: int,
    trials: Trials,
    *,
    seconds: float,
    windows: float = float("inf"),
    device_gib: float = float("inf"),
) -> Found:
    """Search for a recipe whose batch_size is LARGEST. `start` is the batch below it.

    `windows`: the most that a step may have, where it trains on each window of a text once. Raises
    SearchFailed.
    """
    on_cpu = trials.settings.device == "cpu"
    return Search(
        start,
        lambda batch: trials.attempt(replace(recipe, batch_size=batch), f"batch {batch}", steps=1),
        most=windows,
        seconds=seconds if on_cpu else float("inf"),
        ram_gib=RAM_SHARE * psutil.virtual_memory().available / GIB if on_cpu else float("inf"),
        device_gib=float("inf") if on_cpu else device_gib,
    ).run()


@dataclass
class Search:
    """Doubles from `start`, which is known to train, until memory ends or a limit is in sight.

    Limits: `most` windows; `seconds` for the whole search and `ram_gib` for a try's peak, both
    judged beforehand by supposing that a doubling doubles them. `device_gib`: the device's memory.
    Two tries tell how it grows with the batch; the batches between them and the largest that
    should fit are left out, and one that is far too large is not tried.
    """

    start: int
    attempt: Callable[[int], Outcome]
    most: float = float("inf")
    seconds: float = float("inf")
    ram_gib: float = float("inf")
    device_gib: float = float("inf")

    def run(self) -> Found:
        """Raises SearchFailed."""
        self.begin = time.perf_counter()
        self.batch, self.last = self.start, None
        self.peaks: dict[int, float] = {}  # GiB, of what trained
        self.refused = float("inf")  # the smallest batch that did not
        while (why := self.against(2 * self.batch)) is None:
            step = 2 * self.batch
            while self.should_fit(2 * step):
                step *= 2
            self.last = self.attempt(step)
            if self.last.status == "oom":
                self.refused = step
            elif self.last.status != "ok":
                raise SearchFailed(step, self.last)
            else:
                self.batch = step
                self.peaks[step] = self.last.measurement["peak_reserved_gib"]
        return Found(batch_size=self.batch, why=why)

    def against(self, step: int) -> str | None:
        """Why the next batch should not be tried."""
        if step >= self.refused:
            return f"{step}: out of memory"
        if step > self.most:
            return f"the text has only {self.most} windows"
        if self.last and 2 * self.peaks[self.batch] > self.ram_gib:
            return f"{step} may need more than {self.ram_gib:.1f} GiB, {RAM_SHARE:.0%} of free RAM"
        passed = time.perf_counter() - self.begin
        if self.last and passed + 2 * self.last.wall_s > self.seconds:
            return f"{step} may take the search past {self.seconds:g} s"
        if (wanted := forecast(self.peaks, step)) > UNFIT * self.device_gib:
            return f"{step} would need about {wanted:.0f} of {self.device_gib:.0f} GiB"
        return None

    def should_fit(self, step: int) -> bool:
        known = len(self.peaks) > 1 and self.device_gib < float("inf")
        possible = known and step < self.refused and step <= self.most
        return possible and forecast(self.peaks, step) < self.device_gib


def forecast(peaks: dict[int, float], batch: int) -> float:
    """GiB that a batch should need, on the line through the two largest that trained; else 0."""
    if len(peaks) < 2:
        return 0.0
    (a, at_a), (b, at_b) = sorted(peaks.items())[-2:]
    return at_b + (at_b - at_a) / (b - a) * (batch - b)

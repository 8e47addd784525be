"""Marks around steps, and the seconds between them."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Marks the edges of steps. Clocks that a device keeps itself are in accelerator.py."""

    def wait(self) -> None:
        """Until all that was asked for so far is done."""

    def mark(self) -> None:
        """Here one step ends and the next begins."""

    def step_seconds(self) -> list[float]:
        """Between each two marks."""


class HostClock:
    """Marks on the host's clock, each after the device has finished. For devices without events."""

    def __init__(self, wait: Callable[[], None], now: Callable[[], float] = time.perf_counter):
        self.wait, self.now, self.marks = wait, now, []

    def mark(self) -> None:
        self.wait()
        self.marks.append(self.now())

    def step_seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


def time_steps(
    step: Callable[[], None], more: Callable[[int], bool], clock: Clock
) -> tuple[list[float], float]:
    """Run `step` while `more(steps done)`: seconds of each, and of the host from edge to edge."""
    clock.wait()
    begin, done = time.perf_counter(), 0
    clock.mark()
    while more(done):
        step()
        clock.mark()
        done += 1
    clock.wait()
    window_s = time.perf_counter() - begin
    return clock.step_seconds(), window_s

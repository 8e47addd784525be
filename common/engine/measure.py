"""One clock for every rung. It runs around the workload's steps only.

Outside it: start-up, building, compilation, warm-up, probes. A device is synchronised at the
first and last of the timed steps' edges; devices that record events themselves time the steps.
"""

import os
import time
from collections.abc import Callable
from typing import Protocol

from common.engine.clock import time_steps
from common.engine.processor_time import ProcessorTime
from common.engine.session import Session, Settings, Timed


class Turns(Protocol):
    """Who asks for timed steps, where they are not all taken at once."""

    def wait(self, session: Session, warm_s: float) -> int:
        """Until steps are wanted: how many; 0: no more. `warm_s`: what one took in the warm-up."""

    def took(self, step_s: list[float]) -> None:
        """They were taken, in so many seconds each."""


def measure(
    build: Callable[[], Session],
    settings: Settings,
    probe: Callable[[object], dict[str, str]],
    tell: Callable[[str], None],
    turns: Turns | None = None,
) -> dict:
    """Build a session, warm it up, probe it, time its steps, and audit them.

    `probe` looks at it before the clock starts and raises NotInEffect to stop it; `tell` is
    given each phase as it begins; `turns` asks for steps, where it is not None. Returns the
    measurement for the record, in seconds. Raises Disturbed if the timed steps turn out to be void.
    """
    begin = time.perf_counter()
    tell("building")
    session = build()
    tell("first step")
    clock = session.clock()
    clock.wait()
    startup_s = time.perf_counter() - begin
    (first_step_s,), _ = time_steps(session.step, at_most(1), clock)
    tell("warming up")
    look = time.perf_counter()
    session.look()
    warm_s = time.perf_counter() - look
    for _ in range(settings.warmup - 2):
        session.step()
    session.ready()
    in_effect = probe(session.probed)
    session.begin()
    timed = in_turns(session, turns, warm_s) if turns else at_once(session, tell)
    session.end()
    session.audit()
    found = {
        "step_s": timed.step_s,
        "window_s": timed.window_s,
        "first_step_s": first_step_s,
        "startup_s": startup_s,
        "cpu_share": timed.cpu_s / timed.window_s / (os.cpu_count() or 1),
        "in_effect": in_effect,
    }
    return found | session.values(timed, tell)


def at_most(steps: int) -> Callable[[int], bool]:
    """Whether another step is to be taken after so many."""
    return lambda done: done < steps


def at_once(session: Session, tell: Callable[[str], None]) -> Timed:
    """All timed steps, one after the other."""
    tell("timing")
    timed = clocked(session, session.more)
    tell("timed")
    return timed


def in_turns(session: Session, turns: Turns, warm_s: float) -> Timed:
    """Steps whenever they are asked for; asleep in between."""
    whole = Timed(step_s=[], window_s=0.0, cpu_s=0.0)
    while wanted := turns.wait(session, warm_s):
        part = clocked(session, at_most(wanted))
        turns.took(part.step_s)
        whole = Timed(
            step_s=whole.step_s + part.step_s,
            window_s=whole.window_s + part.window_s,
            cpu_s=whole.cpu_s + part.cpu_s,
        )
    return whole


def clocked(session: Session, more: Callable[[int], bool]) -> Timed:
    processor = ProcessorTime()
    step_s, window_s = time_steps(session.step, more, session.clock())
    return Timed(step_s=step_s, window_s=window_s, cpu_s=processor.passed())

"""One clock for every rung. It runs around the workload's steps only.

Outside it: start-up, building, compilation, warm-up, probes. A device is synchronised at the
first and last of the timed steps' edges; devices that record events themselves time the steps.
"""

import os
import time
from collections.abc import Callable

from common.engine.clock import time_steps
from common.engine.session import Session, Settings, Timed

ONE = (1).__gt__  # "more" for a single step: while none is done


def measure(
    build: Callable[[], Session],
    settings: Settings,
    probe: Callable[[object], dict[str, str]],
    tell: Callable[[str], None],
) -> dict:
    """Build a session, warm it up, probe it, time its steps, and audit them.

    `probe` looks at it before the clock starts and raises NotInEffect to stop it; `tell` is
    given each phase as it begins. Returns the measurement for the record, in seconds. Raises
    Disturbed if the timed steps turn out to be void.
    """
    begin = time.perf_counter()
    tell("building")
    session = build()
    tell("first step")
    clock = session.clock()
    clock.wait()
    startup_s = time.perf_counter() - begin
    (first_step_s,), _ = time_steps(session.step, ONE, clock)
    tell("warming up")
    session.look()
    for _ in range(settings.warmup - 2):
        session.step()
    session.ready()
    in_effect = probe(session.probed)
    session.begin()
    tell("timing")
    cpu_before = time.process_time()
    step_s, window_s = time_steps(session.step, session.more, session.clock())
    cpu_s = time.process_time() - cpu_before
    tell("timed")
    session.end()
    session.audit()
    found = {
        "step_s": step_s,
        "window_s": window_s,
        "first_step_s": first_step_s,
        "startup_s": startup_s,
        "cpu_share": cpu_s / window_s / (os.cpu_count() or 1),
        "in_effect": in_effect,
    }
    timed = Timed(step_s=step_s, window_s=window_s, cpu_s=cpu_s)
    return found | session.values(timed, tell)

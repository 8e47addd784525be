"""One clock for every rung. It runs around the workload's steps only.

Outside it: start-up, building, compilation, warm-up, probes. A device is synchronised at the
window's two edges; devices that record events themselves time the steps between by those.
"""

import os
import time
from collections.abc import Callable

from common.engine.clock import time_steps
from common.engine.session import Session, Settings, Window

ONE = (1).__gt__  # "more" for a single step: while none is done


def measure(
    build: Callable[[], Session],
    settings: Settings,
    probe: Callable[[object], dict[str, str]],
    report: Callable[[str], None],
) -> dict:
    """Build a session, warm it up, probe it, time its steps, and audit them.

    `probe` looks at it before the clock starts and raises NotInEffect to stop it; `report` is told
    each phase as it begins. Returns the measurement for the record, in seconds. Raises
    Disturbed if the window turns out to be void.
    """
    begin = time.perf_counter()
    report("building")
    session = build()
    report("first step")
    clock = session.clock()
    clock.wait()
    startup_s = time.perf_counter() - begin
    (first_step_s,), _ = time_steps(session.step, ONE, clock)
    report("warming up")
    session.look()
    for _ in range(settings.warmup - 2):
        session.step()
    session.ready()
    in_effect = probe(session.probed)
    session.begin()
    report("timing")
    cpu_before = time.process_time()
    step_s, window_s = time_steps(session.step, session.more, session.clock())
    cpu_s = time.process_time() - cpu_before
    report("timed")
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
    window = Window(step_s=step_s, window_s=window_s, cpu_s=cpu_s)
    return found | session.values(window, report)

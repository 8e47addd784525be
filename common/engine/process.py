"""Run a child process for a job, watch it, and end it with everything it started."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common.engine.job import Job
from common.engine.workload import EVENTS, Launch

LOG_KEPT = 2000  # characters
RESULTS = ("measurement", "equivalence", "ceilings", "refuser")  # that a child may send


class Watch(Protocol):
    """Looks at the device from this process while a child times its steps."""

    def start(self, child_pid: int) -> None: ...

    def stop(self) -> dict: ...


@dataclass(kw_only=True)
class Outcome:
    """How a child ended."""

    status: str  # ok | skipped | disturbed | oom | failed | timeout
    reason: str
    wall_s: float  # start to end, seconds
    measurement: dict = field(default_factory=dict)  # empty unless ok
    equivalence: dict = field(default_factory=dict)  # empty unless the job asked for the check
    ceilings: dict = field(default_factory=dict)  # empty unless the job asked for them
    window: dict = field(default_factory=dict)  # what was seen of the device meanwhile
    log: str = ""  # what it wrote to stderr
    note: str = ""  # what else there is to say of it
    refuser: int | None = None  # of one that was skipped: the rung that does not apply, where known

    def log_end(self) -> str:
        """What a record keeps of the log: the end, where a traceback is; of a success, nothing."""
        return "" if self.status == "ok" else self.log[-LOG_KEPT:]

    def told(self) -> dict:
        """Why there is no figure, for a record."""
        return {"status": self.status, "reason": self.reason, "log": self.log_end()}


def run_job(
    job: Job,
    timeout: float,
    tell: Callable[[str], None] = lambda phase: None,
    watch: Watch | None = None,
    launch: Launch | None = None,
) -> Outcome:
    """Give the job to a fresh process and wait for its result, `timeout` seconds at most.

    `launch`: how to start it, if not as the job's workload says. `watch` is started when the child
    says that its timed steps begin and stopped when they end.

    Never raises for what the child does; an interrupt ends the child and is passed on.
    """
    begin = time.perf_counter()
    launch, line = launch or job.launch(), json.dumps(job.to_json())
    with tempfile.TemporaryFile() as stderr, _channel() as (path, events):
        child = subprocess.Popen(
            (*launch.command, line) if launch.by_argument else launch.command,
            env=launch.variables() | {EVENTS: path},
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # its own group: one kill reaches its compile workers, too
        )
        try:
            if not launch.by_argument:
                with contextlib.suppress(BrokenPipeError):  # it died before it read its job
                    child.stdin.write(line.encode() + b"\n")
                    child.stdin.flush()
            result, window = _listen(child, events, begin + timeout, tell, watch)
            result = result or _how_it_ended(child, begin + timeout, timeout)
        finally:
            _end(child)
            if watch:
                watch.stop()  # again, for a child that died within them
        stderr.seek(0)
        log = stderr.read().decode(errors="replace")
    return Outcome(
        status=result["status"],
        reason=result["reason"] or _last_words(result, log),
        **{k: result[k] for k in RESULTS if k in result},
        window=window,
        wall_s=time.perf_counter() - begin,
        log=log,
    )


@contextlib.contextmanager
def _channel() -> Iterator[tuple[str, int]]:
    """A named pipe for events, and this process's end of it.

    Not stdout: sitecustomize, a library, or the user's own shell may write there.
    """
    with tempfile.TemporaryDirectory(prefix="ladder-") as folder:
        path = str(Path(folder) / "events")
        os.mkfifo(path)
        # read and write: it neither waits for the child here nor ends when the child closes it
        end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield path, end
        finally:
            os.close(end)


def _listen(
    child: subprocess.Popen, events: int, deadline: float, tell, watch
) -> tuple[dict, dict]:
    """The child's result, empty if it gave none, and what the watch saw during its timed steps."""
    window = {}
    for event in _events(child, events, deadline):
        if event.get("phase") == "timing" and watch:
            watch.start(child.pid)
        elif event.get("phase") == "timed":
            window = watch.stop() if watch else {}
        elif "phase" in event:
            tell(event["phase"])
        else:
            return event, window
    return {}, window


def _last_words(result: dict, log: str) -> str:
    """Of a child that ended by itself without a result: the end of its log."""
    if "exit" not in result:
        return ""
    return f"{result['exit']}: {(log.strip().splitlines() or ['no message'])[-1]}"[:200]


def _events(child: subprocess.Popen, events: int, deadline: float) -> Iterator[dict]:
    """What the child sends, until it is gone or the deadline passes."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := deadline - time.perf_counter()) > 0:
            gone = child.poll() is not None  # asked first: what it sent before is read below
            if selector.select(0 if gone else min(left, 0.5)):
                *lines, buffer = (buffer + os.read(events, 65536)).split(b"\n")
                yield from map(json.loads, lines)
            elif gone:
                return


def _how_it_ended(child: subprocess.Popen, deadline: float, timeout: float) -> dict:
    """Status and reason of a child that gave no result."""
    try:
        code = child.wait(max(0.0, deadline - time.perf_counter()))
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "reason": f"still running after {timeout:g} s"}
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (by hand, or by the system for want of memory)" if name == "SIGKILL" else ""
        return {"status": "failed", "reason": f"killed by {name}{hint}"}
    return {"status": "failed", "reason": "", "exit": f"exit status {code}"}


def _end(child: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()

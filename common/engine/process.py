"""Run a child process for a job, watch it, and end it with everything it started.

A child measures and is gone, or it stays: ready, asleep, and woken for a few steps at a time.
"""

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
from common.engine.machine import without_home
from common.engine.workload import COMMANDS, EVENTS, Launch

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
    with Child(job, timeout, tell, watch, launch) as child:
        child.hear()
        return child.outcome()


class Child:
    """A fresh process that has a job. Leaving the context ends it, and all that it started.

    `timeout`: seconds for all the time that it is waited for, not for the time that it waits.
    """

    def __init__(self, job: Job, timeout: float, tell=lambda phase: None, watch=None, launch=None):
        self.launch, self.line = launch or job.launch(), job.line()
        self.timeout, self.left, self.tell, self.watch = timeout, timeout, tell, watch
        self.commands = self.launch.processes if job.turns else 0
        self.result: dict | None = None  # how it ended
        self.window: dict = {}  # what the watch saw during the timed steps
        self.wall_s = 0.0  # spent waiting for it
        self.note = ""  # what else there is to say of it
        self.sent = b""  # what it sent and nobody has read

    def __enter__(self) -> "Child":
        with contextlib.ExitStack() as stack:
            self.log = stack.enter_context(tempfile.TemporaryFile())
            path, self.events, self.pipes = stack.enter_context(_channel(self.commands))
            command = self.launch.command
            self.process = subprocess.Popen(
                (*command, self.line) if self.launch.by_argument else command,
                env=self.launch.variables() | {EVENTS: path},
                stdin=subprocess.PIPE,
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,  # its own group: one kill reaches its compile workers, too
            )
            stack.callback(self.end)
            self.selector = stack.enter_context(selectors.DefaultSelector())
            self.selector.register(self.events, selectors.EVENT_READ)
            if not self.launch.by_argument:
                with contextlib.suppress(BrokenPipeError):  # it died before it read its job
                    self.process.stdin.write(self.line.encode() + b"\n")
                    self.process.stdin.flush()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self.stack.close()

    def ask(self, steps: int) -> list[float] | None:
        """Wake it for so many steps: their seconds, or None if it ended instead."""
        self.command(steps)
        return self.hear("block")

    def dismiss(self) -> None:
        """Tell it that it was asked for the last time."""
        if self.result is None:
            self.command(0)

    def finish(self) -> Outcome:
        """Wait for the result of one that was dismissed."""
        if self.result is None:
            self.hear()
        return self.outcome()

    def command(self, steps: int) -> None:
        for pipe in self.pipes:
            os.write(pipe, f"{steps}\n".encode())

    def hear(self, wanted: str = "status"):
        """Wait for an event that has `wanted`: its value, or None if the child ended instead.

        A result, or how it ended without one, is kept.
        """
        begin = time.perf_counter()
        try:
            while event := self.next():
                if event.get("phase") == "timing" and self.watch:
                    self.watch.start(self.process.pid)
                elif event.get("phase") == "timed" and self.watch:
                    self.window = self.watch.stop()
                elif "phase" in event:
                    self.tell(event["phase"])
                elif "status" in event:
                    self.result = event
                    return event.get(wanted)
                elif wanted in event:
                    return event[wanted]
            self.result = _how_it_ended(self.process, self.left, self.timeout)
            return None
        finally:
            self.wall_s += time.perf_counter() - begin
            self.left = self.timeout - self.wall_s

    def next(self) -> dict | None:
        """What the child sends next; None if it is gone or its time is over.

        An interrupt while it waits loses nothing: whoever asks again is answered.
        """
        deadline = time.perf_counter() + self.left
        while b"\n" not in self.sent and (left := deadline - time.perf_counter()) > 0:
            gone = self.process.poll() is not None  # asked first: what it sent before is read below
            if self.selector.select(0 if gone else min(left, 0.5)):
                self.sent += os.read(self.events, 65536)
            elif gone:
                break
        line, newline, rest = self.sent.partition(b"\n")
        if not newline:
            return None
        self.sent = rest
        return json.loads(line)

    def outcome(self) -> Outcome:
        """How it ended, as a record has it."""
        self.end()
        self.log.seek(0)
        log, result = without_home(self.log.read().decode(errors="replace")), self.result
        return Outcome(
            status=result["status"],
            reason=without_home(result["reason"]) or _last_words(result, log),
            **{k: result[k] for k in RESULTS if k in result},
            window=self.window,
            wall_s=self.wall_s,
            log=log,
            note=self.note,
        )

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.watch:
            self.watch.stop()  # again, for a child that died within its timed steps


@contextlib.contextmanager
def _channel(readers: int) -> Iterator[tuple[str, int, list[int]]]:
    """A named pipe for events, this process's end of it, and its ends of pipes for commands.

    Not stdout: sitecustomize, a library, or the user's own shell may write there. Each of the
    `readers` has a pipe of its own, beside the events' and named by its rank.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ladder-"))
        ends = []
        for name in ("events", *(f"{COMMANDS}{rank}" for rank in range(readers))):
            path = Path(folder) / name
            os.mkfifo(path)
            # read and write: it neither waits for the child here nor ends when the child closes it
            ends.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            stack.callback(os.close, ends[-1])
        yield str(Path(folder) / "events"), ends[0], ends[1:]


def _last_words(result: dict, log: str) -> str:
    """Of a child that ended by itself without a result: the end of its log."""
    if "exit" not in result:
        return ""
    return f"{result['exit']}: {(log.strip().splitlines() or ['no message'])[-1]}"[:200]


def _how_it_ended(child: subprocess.Popen, left: float, timeout: float) -> dict:
    """Status and reason of a child that gave no result."""
    try:
        code = child.wait(max(0.0, left))
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "reason": f"still running after {timeout:g} s"}
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (by hand, or by the system for want of memory)" if name == "SIGKILL" else ""
        return {"status": "failed", "reason": f"killed by {name}{hint}"}
    return {"status": "failed", "reason": "", "exit": f"exit status {code}"}

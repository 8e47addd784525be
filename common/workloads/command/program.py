"""The user's command with a changed environment: its lines, and its processes seen from outside."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NoReturn

import psutil

from common.diagnose.gpu import have_open
from common.engine.contract import NotInEffect
from common.engine.errors import UserError
from common.engine.machine import PROJECT
from common.engine.workload import EVENTS
from common.workloads.command.lines import Line, Seen
from common.workloads.command.settings import Settings

KEEPER = Path(__file__).with_name("keeper.py")
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # else Python holds lines back that go into a pipe
ENDS = re.compile(rb"[\r\n]+")  # a progress bar ends its lines with \r
MIB = 2**20


class Program:
    """Started at once; leaving the context ends it with all that it started.

    Its output and errors are read as one, line by line; it has no input.
    """

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        self.settings, self.line = settings, Line(settings.line)
        self.begun, self.matched, self.last = time.monotonic(), 0, "(none)"
        self.lines: SimpleQueue[tuple[str, float] | None] = SimpleQueue()  # None: there are no more
        self.keeper = subprocess.Popen(
            [sys.executable, str(KEEPER), *shlex.split(settings.command)],
            env=own_environment() | UNBUFFERED | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.listener = Thread(target=self.listen, daemon=True)
        self.listener.start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *exception) -> None:
        self.keeper.stdin.close()  # which the keeper waits for
        self.keeper.wait()
        self.listener.join()
        self.keeper.stdout.close()

    # -- its lines --

    def listen(self) -> None:
        """Note when each line comes, whatever this process is at."""
        rest = b""
        while came := os.read(self.keeper.stdout.fileno(), 65536):
            at = time.monotonic()
            *whole, rest = ENDS.split(rest + came)
            for line in filter(bytes.strip, whole):
                self.lines.put((line.decode(errors="replace").strip(), at))
        if rest.strip():
            self.lines.put((rest.decode(errors="replace").strip(), time.monotonic()))
        self.lines.put(None)

    def next(self) -> Seen:
        """The next line that matches. Raises UserError if none comes."""
        deadline = time.monotonic() + self.settings.patience_s
        while True:
            try:
                told = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                self.late()
            if told is None:
                self.ended()
            self.last, at = told
            if seen := self.line.find(self.last, at):
                self.matched += 1
                return seen
            if at > deadline:
                self.late()

    def late(self) -> NoReturn:
        raise UserError(
            f"--line {self.line.pattern}: no line matched within {self.settings.patience_s:g} s "
            f"(--patience); the last line was: {self.last}"
        )

    def ended(self) -> NoReturn:
        status, needed = self.keeper.wait(), self.settings.needed
        if status:
            raise UserError(
                f"--command {self.settings.command}: ended with exit status {status} after "
                f"{self.matched} matching lines; its last line was: {self.last}"
            )
        raise UserError(
            f"--line {self.line.pattern}: {self.matched} lines matched before the command ended, "
            f"{needed} are needed (--warmup and --steps); the last line was: {self.last}"
        )

    # -- its processes --

    def processes(self) -> list[psutil.Process]:
        """The command's, and all that it started."""
        try:
            return psutil.Process(self.keeper.pid).children(recursive=True)
        except psutil.Error:
            return []

    def prove(self, variables: tuple[str, ...]) -> None:
        """Raises NotInEffect if one of its processes was started without one of the variables."""
        processes = self.processes()
        if not processes:
            raise NotInEffect("the command has no process any more")
        for process in processes:
            try:
                name, environment = process.name(), process.environ()
            except psutil.NoSuchProcess:
                continue
            except psutil.Error as error:
                raise NotInEffect(f"the environment cannot be read: {error}") from error
            for variable in variables:
                key, value = variable.split("=", 1)
                if (there := environment.get(key)) != value:
                    raise NotInEffect(f"{name} was started with {key}={there}, not {value}")

    def told(self, file: str, pattern: str) -> int:
        """The sum, over its processes, of a number that Linux gives in /proc/PID/file."""
        found = 0
        for process in self.processes():
            try:
                text = Path(f"/proc/{process.pid}/{file}").read_text()
            except OSError:  # it ended, or this is no Linux
                continue
            found += sum(map(int, re.findall(pattern, text)))
        return found

    def huge_mib(self) -> float:
        """Of its memory, what lies in transparent huge pages."""
        return self.told("smaps_rollup", r"AnonHugePages:\s+(\d+) kB") / 1024

    def peak_bytes(self) -> int:
        """Its processes' largest resident sets; pages that they share are counted in each."""
        return self.told("status", r"VmHWM:\s+(\d+) kB") * 1024

    def page_faults(self) -> int:
        """Minor ones so far. Source: proc_pid_stat(5), field 10; a name may hold spaces."""
        return self.told("stat", r"(?s)\A.*\) \S(?: -?\d+){6} (\d+)")

    def threads(self) -> int:
        return self.told("status", r"Threads:\s+(\d+)")

    def bound_threads(self) -> int:
        """Those that may not run on all processors that this process may run on. Linux."""
        found, everywhere = 0, len(os.sched_getaffinity(0))
        for process in self.processes():
            for thread in Path(f"/proc/{process.pid}/task").glob("*"):
                try:
                    found += len(os.sched_getaffinity(int(thread.name))) < everywhere
                except OSError:
                    continue
        return found

    def compiled_files(self) -> int:
        """Files of inductor's and Triton's caches that its processes have mapped."""
        found = set()
        for process in self.processes():
            try:
                maps = Path(f"/proc/{process.pid}/maps").read_text()
            except OSError:
                continue
            found |= set(re.findall(rf"\S*{re.escape(inductor_cache())}\S*", maps))
        return len(found)

    def on_gpu(self) -> bool:
        """Whether one of its processes has an NVIDIA GPU open."""
        return have_open({process.pid for process in self.processes()})


def inductor_cache() -> str:
    """What the paths of its files hold. Source: torch/_inductor/runtime/cache_dir_utils.py."""
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR", "/torchinductor_")


def own_environment() -> dict[str, str]:
    """The user's, as it was before this project's processes added to it."""
    kept = {name: value for name, value in os.environ.items() if name != EVENTS}
    paths = kept.pop("PYTHONPATH", "").split(os.pathsep)
    if paths[:1] == [str(PROJECT)]:  # see Launch.variables
        paths = paths[1:]
    return kept | ({"PYTHONPATH": os.pathsep.join(paths)} if any(paths) else {})

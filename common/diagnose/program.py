"""A program of the user's, started to be watched, and ended with all that it started."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from common.diagnose.tallies import environment
from common.engine.errors import UserError

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 5.0  # between asking it to end and ending it


class Program:
    """The user's command, without a shell; its input and output are this process's own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        if not command or not command[0]:
            raise UserError("--: a command is needed behind it, as: -- python train.py")
        if shutil.which(command[0]) is None:
            raise UserError(f"-- {command[0]}: no such command; give it as it is typed in a shell")
        try:
            self.process = subprocess.Popen(command, env=environment(folder))
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"-- {command[0]}: cannot be started ({reason})") from error
        self.asked = 0  # how often it was asked to end

    def __enter__(self) -> "Program":
        """What would end this process is passed on, so that the program ends with it."""
        self.before = {kind: signal.signal(kind, self.pass_on) for kind in PASSED_ON}
        return self

    def __exit__(self, *exception) -> None:
        if self.process.returncode is None:
            self.end()
        for kind, handler in self.before.items():
            signal.signal(kind, handler)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self, wait_s: float) -> bool:
        """Whether it is over, within so many seconds."""
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            self.interrupt()
        return self.process.returncode is not None

    def interrupt(self) -> None:
        """Ctrl-C. A terminal tells the program itself."""
        if self.asked or not typed_here():
            self.pass_on(signal.SIGINT)
        else:
            self.asked += 1

    def pass_on(self, kind: int, frame=None) -> None:
        """The first is the program's to answer; after the second it is ended."""
        self.asked += 1
        if self.asked > 1:
            self.end()
        else:
            self.process.send_signal(kind)

    def end(self) -> None:
        """End it with all that it started: asked first, then not asked."""
        tree = descendants(self.pid)
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(tree, PATIENCE_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()

    @property
    def exit_status(self) -> int:
        """Its own, as a shell gives it: 128 and the signal's number where one ended it."""
        code = self.process.returncode
        return 128 - code if code < 0 else code


def typed_here() -> bool:
    """Whether this process group is in the foreground of a terminal, which sends Ctrl-C to all."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []

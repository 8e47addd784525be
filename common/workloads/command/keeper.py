"""Runs a command, and ends it with all that it started as soon as nobody waits for it any more.

python keeper.py COMMAND ...: its stdin is a pipe that whoever asked for the command holds. It ends
with the command's exit status, 128 and the signal's number if one ended it. torchrun starts its
workers in sessions of their own, so ending a process group would not be enough. Stands alone: the
command must not find this project on its path.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time

import psutil

PATIENCE_S = 5.0  # between asking a process to end and ending it
PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux: orphans become this process's children


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=end_with_asker, daemon=True).start()
    status = program.wait()
    end_all()
    os._exit(128 - status if status < 0 else status)


def end_with_asker() -> None:
    while os.read(0, 4096):
        pass
    end_all()
    os._exit(1)


def end_all() -> None:
    asked, begun = set(), time.monotonic()
    while left := psutil.Process().children(recursive=True):
        late = time.monotonic() - begun > PATIENCE_S
        for process in left:
            with contextlib.suppress(psutil.Error):
                if late:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked.update(left)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # orphans are this process's to wait for
                pass
        time.sleep(0.02)


if __name__ == "__main__":
    main()

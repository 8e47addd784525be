"""Processor time of a process and of all that it started: what happens for its sake."""

import os
import time

import psutil


class ProcessorTime:
    """A stopwatch of processor time: this process, its descendants, and those that ended.

    It begins when it is made. What reading the descendants costs stays outside.
    """

    def __init__(self) -> None:
        self.others = of_others()
        self.own = time.process_time()

    def passed(self) -> float:
        """Seconds, user and system, of all of them together."""
        own = time.process_time() - self.own
        return own + of_others() - self.others


def of_others() -> float:
    """Seconds that what this process started has used, whether it ended or not."""
    ended = os.times()  # children that were waited for, with theirs
    living = psutil.Process().children(recursive=True)
    return ended.children_user + ended.children_system + sum(map(spent, living))


def spent(process: psutil.Process) -> float:
    """Seconds of one process and of its children that ended; 0 if it ended just now, when its
    parent has them or soon will."""
    try:
        return total(process.cpu_times())
    except psutil.Error:
        return 0.0


def total(times) -> float:
    """Ended children are counted on Linux only: psutil knows of none elsewhere."""
    children = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return times.user + times.system + children

"""Processor time of a process tree: what a child used counts, alive or ended."""

import subprocess
import sys

import pytest

from common.engine.processor_time import ProcessorTime

BURN_S = 0.3
CHILD = (
    f"import time\nwhile time.process_time() < {BURN_S}: pass\nprint('done', flush=True)\ninput()\n"
)


def child() -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CHILD], text=True, **pipes)


@pytest.mark.parametrize("ends", [False, True], ids=["alive", "ended"])
def test_a_childs_time_is_counted_alive_or_ended(ends):
    processor = ProcessorTime()
    with child() as burning:
        assert burning.stdout.readline() == "done\n"
        if ends:
            burning.communicate("\n")
        used = processor.passed()
        if not ends:
            burning.communicate("\n")
    assert BURN_S - 0.02 <= used < BURN_S + 1.0  # clock ticks of 0.01 s; Python's own start and end


def test_it_begins_when_it_is_made_and_sleep_costs_nothing():
    with child() as burning:
        assert burning.stdout.readline() == "done\n"
        processor = ProcessorTime()
        used = processor.passed()
        burning.communicate("\n")
    assert 0.0 <= used < 0.1

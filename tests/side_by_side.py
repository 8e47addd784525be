"""Several pytest processes on one machine: who has which tests, processors, and moments.

pytest-xdist starts as many as there are processors, 4 at most. Each has its share of these, and
what it starts inherits that: a clock in one sees little of the others. A test that needs all of
them asks for `whole_machine`.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import pytest
from xdist.scheduler import LoadScopeScheduling

from common.engine.records import write_atomically

MOST = 4  # processes: each imports torch, and measures
WIDE = ("session", "module")  # of a fixture that several tests share: what they share is measured
WHOLE = "whole_machine"
HERE, FILES = Path(__file__).parent, ("__init__.py", "conftest.py")
EVERYBODYS = {"own_environment"}  # what all tests have, which keeps none of them together
# the longest first, so that all processes end together; whoever is not named comes behind these
LONGEST = (
    *("runner", "campaign", "data_ladder", "distributed", "turns", "inference", "resume", "settle"),
    *("parallel", "scripts", "convergence", "memory", "contributing", "several", "two_hosts"),
    *("beyond", "going_on", "finetune", "compress", "speculation", "command_line"),
)


def processors() -> set[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def keep_to(chosen: set[int]) -> None:
    """Let this process, and what it will start, use these processors only."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, chosen)


def share(everything: set[int], number: int, count: int) -> set[int]:
    """Which of the processors belong to one of so many processes: all, if there are too few."""
    return set(sorted(everything)[number::count]) or everything


# -- which tests belong together --


def shared(item: pytest.Item) -> set[str]:
    """What keeps a test together with others.

    The fixtures of this project that are made once for several tests, with where they are.
    """
    known = item._fixtureinfo.name2fixturedefs
    made = [known[name][-1] for name in item.fixturenames if known.get(name)]
    ours = [one for one in made if one.baseid and one.scope in WIDE]
    return {f"{one.baseid}::{one.argname}" for one in ours if one.argname not in EVERYBODYS}


def together(sets: Sequence[set[str]]) -> list[set[str]]:
    """The sets, those that have something in common made one."""
    found: list[set[str]] = []
    for one in sets:
        touching = [other for other in found if one & other]
        found = [other for other in found if not one & other] + [one.union(*touching)]
    return found


def stem(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


def group(items: list[pytest.Item]) -> dict[str, str]:
    """The group of each test, which one process has whole; the longest groups are put first.

    What is measured once for several tests keeps these together; all others go by file. Whoever
    needs the whole machine is last, when the others have little left to wait with.
    """
    uses = [shared(item) for item in items]
    unions = together([names for names in uses if names])
    order, groups = {}, {}
    for item, names in zip(items, uses, strict=True):
        union = next((one for one in unions if names & one), set())
        name = " ".join(sorted(union)) or item.path.name
        place = LONGEST.index(stem(item)) if stem(item) in LONGEST else len(LONGEST)
        rank = (any(one.endswith(WHOLE) for one in union), not union, place)
        order[name] = min(rank, order.get(name, rank))
        groups[item.nodeid] = name
    items.sort(key=lambda item: (order[groups[item.nodeid]], groups[item.nodeid]))
    return groups


class Groups(LoadScopeScheduling):
    """Hands out the groups, which the other processes have written there, in the tests' order.

    Not xdist's own loadgroup: pytest 9.2 has no `_nodeid`, in which xdist 3.8 notes a group.
    """

    def __init__(self, config, log, path: Path) -> None:
        super().__init__(config, log)
        self.path = path

    @cached_property
    def groups(self) -> dict[str, str]:
        return json.loads(self.path.read_text())

    def _split_scope(self, nodeid: str) -> str:
        return self.groups[nodeid]


def write_groups(path: Path, groups: dict[str, str]) -> None:
    write_atomically(path, json.dumps(groups).encode())


# -- who runs when --


class Machine:
    """Tests share it, but for one that has it whole.

    Whoever wants all of it closes the door to others, and waits until those inside have left. Door
    and room are locks on two files that are there, so nothing is left where a process is killed.
    """

    def __init__(self, everything: set[int], own: set[int], folder: Path = HERE) -> None:
        self.everything, self.own = everything, own
        self.door, self.inside = ((folder / name).open("rb") for name in FILES)

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        with locked(self.door):
            fcntl.flock(self.inside, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self.inside, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """For a test that has its part: it leaves, and comes back when all others have left."""
        fcntl.flock(self.inside, fcntl.LOCK_UN)  # before the door: another may wait behind it
        with locked(self.door):
            fcntl.flock(self.inside, fcntl.LOCK_EX)
            keep_to(self.everything)
            try:
                yield
            finally:
                keep_to(self.own)
                fcntl.flock(self.inside, fcntl.LOCK_SH)


@contextlib.contextmanager
def locked(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)

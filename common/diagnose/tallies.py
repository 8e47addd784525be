"""What the tallies in a watched program's processes wrote: waits and steps, by process."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

TALLY = Path(__file__).parent / "tally"
FOLDER = "LADDER_TALLY"  # the variable that names the folder for their files


def environment(folder: Path) -> dict[str, str]:
    """The whole environment of a program that is to carry the tally."""
    paths = filter(None, (str(TALLY), os.environ.get("PYTHONPATH")))
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), FOLDER: str(folder)}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """One process between its first and its last step, or batch where no optimizer stepped.

    Before the first step it starts and perhaps compiles: that is in no share.
    """

    pid: int
    begin: float  # seconds of the monotonic clock
    end: float
    steps: int | None  # between the two; None: no optimizer was seen
    data_wait: float | None  # share of the time from begin to end; None: no DataLoader was seen
    data_start: float | None
    loader: dict  # of the DataLoader that was waited for longest: workers, batch_size, persistent
    device: str | None  # of the parameters: cpu, cuda; None: no optimizer was seen
    index: int
    name: str  # of a GPU, as torch has it
    threads: int | None


def read(folder: Path) -> list[Tally]:
    """All processes that took two steps at least, or two batches."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            one = of_process(int(path.stem), json.loads(path.read_text()))
        except (OSError, ValueError):  # it is being replaced; the next reading has it
            continue
        if one:
            found.append(one)
    trained = [one for one in found if one.steps is not None]
    return trained or found


def of_process(pid: int, told: dict) -> Tally | None:
    """None if it took a single step. Its waits are not known if its batches came another way."""
    kind = "steps" if "steps" in told["marks"] else "batches"
    first, last, done = told["marks"][kind]
    seconds, waited, started, batches = (b - a for a, b in zip(first, last, strict=True))
    if seconds <= 0:
        return None
    fed = batches >= (done - 1) / 2  # a loader that only validation asks does not feed the steps
    return Tally(
        pid=pid,
        begin=first[0],
        end=last[0],
        steps=done - 1 if kind == "steps" else None,
        data_wait=waited / seconds if fed else None,
        data_start=started / seconds if fed else None,
        loader=told["loader"] if fed else {},
        device=told.get("device"),
        index=told.get("index") or 0,
        name=told.get("name", ""),
        threads=told.get("threads"),
    )

"""Runs live side by side, each in a folder of its own; `last` is the latest."""

import contextlib
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from common.engine.errors import UserError
from common.engine.options import writable_folder
from common.engine.plan import Plan
from common.engine.records import write_atomically

RESULTS = Path("results")
RUNS = RESULTS / "runs"
FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}-\d{6}-([a-z]+)-.*")  # its time, ladder, and device
LAST = re.compile(r"last(?:-([0-9]{1,4}))?")
LATEST = ("ladder.png", "ladder.csv", "ladder.md")  # of the first ladder's last whole run


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def new_folder(ladder: str, device: str) -> Path:
    """A folder that no other run has. Raises UserError if none can be made."""
    writable_folder("--out", RUNS)
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{ladder}-{slug(device) or 'device'}"
    for again in ("", *(f"-{number}" for number in range(2, 1000))):  # begun in the same second
        with contextlib.suppress(FileExistsError):
            (RUNS / f"{name}{again}").mkdir()
            return RUNS / f"{name}{again}"
    raise UserError(f"{RUNS}: too many runs that began at once")


def run_folders(ladder: str | None = None) -> list[Path]:
    """Those of the runs, of one ladder or of all, the oldest first."""
    with contextlib.suppress(OSError):
        found = [(FOLDER.fullmatch(path.name), path) for path in sorted(RUNS.iterdir())]
        return [path for match, path in found if match and ladder in (None, match[1])]
    return []


def find_run(text: str) -> str:
    """Where a run is that is named: `last`, `last-1` (the one before), its folder, or a path.

    Of a run of all ladders, `last/NAME` is one of them. Raises UserError where there are not so
    many.
    """
    first, slash, name = text.partition("/")
    if slash and (LAST.fullmatch(first) or FOLDER.fullmatch(first)):
        return str(Path(find_run(first)) / name)
    if match := LAST.fullmatch(text):
        back, runs = int(match[1] or 0), run_folders()
        if back >= len(runs):
            there = f"there are {len(runs)}" if runs else "there are none yet"
            raise UserError(f"{text}: no such run in {RUNS}; {there}")
        return str(runs[-1 - back])
    if FOLDER.fullmatch(text) and (RUNS / text).is_dir():
        return str(RUNS / text)
    return text


def is_whole(plan: Plan) -> bool:
    """Whether every rung of the first ladder was asked for, at a size that says something."""
    everything = tuple(range(plan.ladder.top + 1))
    return plan.ladder.name == "steps" and plan.numbers == everything and plan.preset != "tiny"


def show_as_latest(folder: Path, say: Callable[[str], None]) -> None:
    """Let results/ladder.png and the tables beside it be this run's."""
    for name in LATEST:
        try:
            write_atomically(RESULTS / name, (folder / name).read_bytes())
        except OSError as error:
            say(f"warning: {RESULTS / name} is not written ({error.strerror})")

"""Climb the ladder on this machine: python -m steps.run

Measures every rung in fresh processes and leaves a page, tables, pictures, and every raw step time
in a folder of the run's own. Nothing is downloaded.
"""

import argparse
import contextlib
import json
import textwrap
from pathlib import Path

from common.cli import together
from common.cli.climbing import INTERRUPTED, NOTHING, measured
from common.cli.display import Display
from common.cli.planning import ALL, asked_for, list_rungs, make_plan, parse, typed
from common.cli.runs import is_whole, new_folder, run_folders, show_as_latest
from common.engine.climb import Climb
from common.engine.errors import UserError
from common.engine.options import writable_folder
from common.engine.plan import Plan
from common.engine.records import Records, sole_writer
from common.engine.workload import Planned
from common.report.ending import COMMAND, again, ending


def main(arguments: list[str] | None = None) -> int:
    if asked_for(arguments) == ALL:
        return together.main(arguments)
    ladder, options = parse(arguments)
    if options.list:
        list_rungs(ladder)
        return 0
    plan, planned = make_plan(ladder, options)
    out = run_folder(plan, options)
    try:
        with sole_writer(out):
            return climb(plan, planned, options, out, typed(arguments))
    finally:
        if options.out is None:
            tidy(out)


def run_folder(plan: Plan, options: argparse.Namespace) -> Path:
    """Where this run is written: a folder of its own, unless --out names one.

    --resume goes on with the latest run of which something can be kept.
    """
    if options.out is not None:
        return writable_folder("--out", options.out)
    for folder in reversed(run_folders(options.ladder) if options.resume else []):
        with contextlib.suppress(UserError):  # not readable: then it is not gone on with
            if Climb(plan, Records(folder / "records.jsonl"), Display(plan)).resume():
                return folder
    return new_folder(options.ladder, plan.device.name)


def tidy(folder: Path) -> None:
    """Leave no folder in which nothing was recorded."""
    if not (folder / "records.jsonl").exists():
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()


def climb(
    plan: Plan, planned: Planned, options: argparse.Namespace, out: Path, command: str
) -> int:
    """Measure, write the results, and say what came out. Returns the exit status."""
    found = measured(plan, planned, out, options.resume)
    if found is None:
        print(NOTHING)
        return INTERRUPTED
    say_end(found.records, plan, found.paths, command, found.interrupted)
    if options.out is None and not found.interrupted and is_whole(plan):
        show_as_latest(out, print)
    if options.json:
        print(json.dumps(found.totals()))
    return found.status


def say_end(
    records: list[dict], plan: Plan, paths: dict[str, str], command: str, interrupted: bool
) -> None:
    """The last lines: what happened, what could not be told, and what to do next."""
    print()
    for line in ending(records, plan, command):
        print(line if line.startswith(COMMAND) else textwrap.fill(line, 80))
    if interrupted:
        print(f"Interrupted: {len(records)} measurements are kept. To go on:")
        print(COMMAND + again(command, "--resume"))
    if page := paths.get("html") or paths.get("md"):
        print(f"Open {page}")

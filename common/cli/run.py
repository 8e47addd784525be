"""Climb the ladder on this machine: python -m steps.run

Measures every rung in fresh processes and leaves a page, tables, pictures, and every raw step time
in a folder of the run's own. Nothing is downloaded.
"""

import argparse
import contextlib
import json
import os
import shlex
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil

from common.cli.display import Display, in_words
from common.cli.planning import list_rungs, make_plan, parse
from common.cli.runs import is_whole, new_folder, run_folders, show_as_latest
from common.engine.climb import Climb
from common.engine.contract import SKIPPED
from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.machine import command_line
from common.engine.options import writable_folder
from common.engine.plan import Plan
from common.engine.records import NoRecords, Records, as_records_of, sole_writer
from common.engine.rungs import called
from common.engine.stats import percent
from common.engine.workload import Planned
from common.report.attribution import attribution_text, to_attribution
from common.report.ending import COMMAND, again, ending
from common.report.files import write_results
from common.report.frame import to_frame
from common.report.recommendation import recommendation_text
from common.report.tables import control, control_text, to_text

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(arguments: list[str] | None = None) -> int:
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


def typed(arguments: list[str] | None) -> str:
    """The command that asks for this run."""
    if arguments is None:
        return command_line()
    return shlex.join(["python", "-m", "steps.run", *arguments])


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
    store, interrupted = Records(out / "records.jsonl"), False
    with Display(plan) as display:
        run = Climb(plan, store, display)
        preset = f"preset {plan.preset}, " if plan.preset else ""
        display.say(f"{plan.device.name}: {preset}{how(plan)}")
        for line in filter(None, planned.about):
            display.say(line)
        if options.resume:
            display.say(go_on(run))
        try:
            run.run()
        except KeyboardInterrupt:
            interrupted = True
    if not run.done:
        print("interrupted before the first rung was finished; nothing was recorded")
        return INTERRUPTED
    records = store.read(run.run_facts["run_id"])
    say_results(records, plan)
    paths = write_results(records, out, plan.ladder)
    say_end(records, plan, paths, command, interrupted)
    if options.out is None and not interrupted and is_whole(plan):
        show_as_latest(out, print)
    counts = count(records)
    if options.json:
        print(json.dumps(totals(run, records, paths) | counts | {"interrupted": interrupted}))
    return INTERRUPTED if interrupted else 1 if counts["failed"] or not counts["ok"] else 0


def count(records: list[dict]) -> dict[str, int]:
    """How many measurements are well, were not to be made, and failed."""
    status = Counter(record["status"] for record in records)
    ok, skipped = status["ok"], status[SKIPPED]
    return {"ok": ok, SKIPPED: skipped, "failed": len(records) - ok - skipped}


def totals(run: Climb, records: list[dict], paths: dict[str, str]) -> dict:
    wall_s = time.time() - psutil.Process().create_time()  # with this process's own start-up
    return {
        "records": str(run.records.path),
        **paths,
        "wall_s": round(wall_s, 1),
        "runner_s": round(wall_s - run.children.seconds, 1),
        "control": control(records, run.workload),
    }


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


def how(plan: Plan) -> str:
    if plan.turns is None:
        return f"{plan.rounds} round(s)"
    if plan.turns.steps is not None:
        return f"in turns of {plan.turns.steps} steps"
    known, most = percent(plan.turns.resolution), in_words(plan.turns.budget_s)
    return f"in turns, until gains are known to {known}, at most {most}"


def go_on(run: Climb) -> str:
    """Resume, and say what is kept; one command starts a run and goes on with it."""
    path = run.records.path
    try:
        if os.path.lexists(path):
            kept = run.resume()
            with as_records_of(path):  # or it would be found out after all the measuring
                _ = to_frame(run.known, run.workload) if kept else None
            if run.plan.turns:
                return f"resuming: {kept} measurements are kept"
            total = len(run.plan.jobs()) * run.plan.rounds
            return f"resuming: {kept} of {total} measurements are kept"
    except NoRecords:
        pass
    return f"nothing to resume in {path.parent}: starting afresh"


def say_results(records: list[dict], plan: Plan) -> None:
    """The table, and whatever else there is to say, in 80 columns."""
    workload = plan.ladder.workload
    print(f"\n{to_text(to_frame(records, workload), workload)}")
    if said := control_text(control(records, workload)):
        print(textwrap.fill(f"   {said}", 80, subsequent_indent="   "))
    if plan.alone or plan.without:
        print(f"\n{attribution_text(to_attribution(records, workload))}")
    if more := workload.extra_text(records, plan.first is not None):
        print(f"\n{more}")
    if plan.ladder.note:
        print(textwrap.fill(plan.ladder.note, 80, initial_indent="   ", subsequent_indent="   "))
    for line in recommendation_text(records, plan.ladder):
        print(line)
    for warning in warnings(records, plan.ladder):
        print(textwrap.fill(f"   warning: {warning}", 80, subsequent_indent="   "))


def warnings(records: list[dict], ladder: Ladder) -> list[str]:
    """Plain sentences on measurements that are not as they should be, each once."""
    found = {}
    for record in records:
        if record["status"] == "ok":
            disturbed = [record["note"]] if "disturbed" in record["note"] else []
            for text in (*ladder.workload.warnings(record), *disturbed):
                found[f"{called(record)}: {text}"] = None
    return list(found)

"""Climb the ladder on this machine: python -m steps.run

Measures every rung in a fresh process and leaves records.jsonl, ladder.csv, ladder.md, and
ladder.png in the output folder. Nothing is downloaded.
"""

import argparse
import json
import os
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil

from common.cli.display import Display
from common.engine.climb import Climb
from common.engine.contract import SKIPPED
from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.metric import ROUNDS
from common.engine.options import (
    Parser,
    duration,
    output_folder,
    seconds,
    share,
    whole,
    whole_number,
    writable_folder,
)
from common.engine.plan import Plan, Turns
from common.engine.records import NoRecords, Records, as_records_of, sole_writer
from common.engine.rungs import REFERENCE, called
from common.engine.stats import percent
from common.engine.workload import Planned
from common.report.attribution import attribution_text, to_attribution
from common.report.files import write_results
from common.report.frame import to_frame
from common.report.tables import control, control_text, to_text
from ladders import LADDERS, load

RESOLUTION = {"cpu": 0.03, "accelerator": 0.01}
SECONDS_EACH = 40.0  # of a run's budget, for each rung
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def ladder_parser(**more) -> Parser:
    """What must be known first: the other options depend on it."""
    parser = Parser(prog="python -m steps.run", description=__doc__.splitlines()[0], **more)
    named = f"one of {', '.join(LADDERS)}; default: steps"
    parser.add_argument("--ladder", choices=LADDERS, default="steps", metavar="L", help=named)
    return parser


def parse(arguments: list[str] | None) -> tuple[Ladder, argparse.Namespace]:
    """The ladder that is asked for, and the options that it has."""
    first, _ = ladder_parser(add_help=False).parse_known_args(arguments)
    ladder = load(first.ladder)
    parser = ladder_parser()
    parser.add_argument("--list", action="store_true", help="show the rungs and stop")
    parser.add_argument("--upto", metavar="N", help="climb to rung N")
    parser.add_argument("--only", metavar="N[,N…]", help="measure these rungs only")
    ladder.workload.options(parser)
    add = parser.add_argument_group("measuring").add_argument
    known = "take turns until every gain is known so closely; default: 3%% on CPUs"
    add("--resolution", type=share, metavar="P%", help=known)
    budget = "stop at the latest then; default: 40s for each rung"
    add("--budget", type=duration, metavar="TIME", help=budget)
    rounds = "one process at a time instead, N of each rung; default on accelerators: 3"
    add("--rounds", type=whole(1, 1000), metavar="N", help=rounds)
    add("--attribute", action="store_true", help="also each rung alone, and the stack without it")
    add("--without", metavar="N", help="also the full stack without rung N")
    add("--timeout", type=seconds, default=900.0, metavar="SECONDS", help="per rung; default: 900")
    add("--resume", action="store_true", help="go on with the last run in the output folder")
    where = "default: results, or results/L of another ladder"
    add("--out", type=output_folder, metavar="DIR", help=where)
    return ladder, parser.parse_args(arguments)


def rung_number(ladder: Ladder, option: str, text: str, least: int = 0) -> int:
    number = whole_number(text.strip())
    if number is None or not least <= number <= ladder.top:
        raise UserError(f"{option} {text}: must be a rung from {least} to {ladder.top}")
    return number


def chosen_rungs(ladder: Ladder, upto: str | None, only: str | None) -> tuple[int, ...]:
    """The rungs that --upto and --only ask for; without them, all."""
    if upto is not None and only is not None:
        raise UserError("--upto and --only: give one of them")
    if only is not None:
        return tuple(sorted({rung_number(ladder, "--only", part) for part in only.split(",")}))
    last = ladder.top if upto is None else rung_number(ladder, "--upto", upto)
    return tuple(range(last + 1))


def list_rungs(ladder: Ladder) -> None:
    if ladder.reference:
        print(f"    {ladder.reference:<27} measured with rung 0")
    print(f" 0  {ladder.title(0)}")
    for rung in ladder.rungs:
        branch = f" (on {rung.base})" if rung.base != rung.number - 1 else ""
        changes = ", ".join(rung.changes) + branch
        print(f"{rung.number:>2}  {rung.title:<27} {changes:<30} {rung.numerics.value}")
    print(textwrap.fill(ladder.note, 80))


def make_plan(ladder: Ladder, options: argparse.Namespace) -> tuple[Plan, Planned]:
    """What the options ask for, as the engine and the workload need it. Raises UserError."""
    numbers = chosen_rungs(ladder, options.upto, options.only)
    alone, without = extra_jobs(ladder, options, numbers)
    planned = ladder.workload.plan(options)
    plan = Plan(
        ladder=ladder,
        baseline=ladder.foot(planned.recipe, planned.device),
        plain=planned.recipe,
        under=tuple(ladder.under(planned.recipe, planned.device)),
        device=planned.device,
        settings=planned.settings,
        numbers=(REFERENCE, *numbers) if ladder.reference and 0 in numbers else numbers,
        alone=alone,
        without=without,
        rounds=options.rounds or planned.rounds,
        turns=turns(ladder, options, planned, len(numbers) + len(alone) + len(without)),
        preset=planned.preset,
        timeout=options.timeout,
        first=planned.first,
    )
    return plan, planned


def turns(ladder: Ladder, options: argparse.Namespace, planned: Planned, jobs: int):
    """Whether the rungs take turns, and for how long: None where each is measured by itself.

    By default on CPUs only: there the machine's noise is large, and memory for all of them there.
    """
    asked = options.resolution is not None or options.budget is not None
    timed = ladder.workload.headline.noise == ROUNDS
    if asked and options.rounds is not None:
        raise UserError("--rounds: without --resolution and --budget, which are for turns")
    if asked and not timed:
        raise UserError(f"--resolution and --budget: not for --ladder {options.ladder}, not timed")
    if options.rounds is not None or not timed or not (asked or planned.device.type == "cpu"):
        return None
    usual = RESOLUTION["cpu" if planned.device.type == "cpu" else "accelerator"]
    return Turns(
        resolution=options.resolution or usual,
        budget_s=options.budget or SECONDS_EACH * jobs,
        steps=getattr(options, "steps", None),
    )


def extra_jobs(
    ladder: Ladder, options: argparse.Namespace, numbers: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rungs to measure alone, and those to leave out of the full stack.

    What the ladder itself measures is not measured again: rung 1 alone, and the top left out.
    """
    top = ladder.top
    if options.ladder != "steps" and (options.attribute or options.without is not None):
        raise UserError("--attribute and --without: only for --ladder steps")
    if options.without is not None:
        number = rung_number(ladder, "--without", options.without, least=1)
        if numbers != tuple(range(top + 1)):
            raise UserError("--without: needs the full stack; leave out --upto and --only")
        return (), (number,) if number < top else ()
    if not options.attribute:
        return (), ()
    if numbers != tuple(range(top + 1)):
        raise UserError("--attribute: needs the whole ladder; leave out --upto and --only")
    return tuple(range(2, top + 1)), tuple(range(1, top))


def main(arguments: list[str] | None = None) -> int:
    ladder, options = parse(arguments)
    if options.list:
        list_rungs(ladder)
        return 0
    plan, planned = make_plan(ladder, options)
    default = Path("results") / ("" if options.ladder == "steps" else options.ladder)
    out = writable_folder("--out", options.out or default)
    with sole_writer(out):
        return climb(plan, planned, options.resume, out)


def climb(plan: Plan, planned: Planned, resume: bool, out: Path) -> int:
    """Measure, write the results, and say what came out. Returns the exit status."""
    store, workload = Records(out / "records.jsonl"), plan.ladder.workload
    interrupted = False
    rounds = 0 if plan.turns else plan.rounds  # generations: as many as are needed
    with Display(len(plan.jobs()) * rounds, rounds, workload) as display:
        run = Climb(plan, store, display)
        display.say(f"{plan.device.name}: preset {plan.preset}, {how(plan)}")
        for line in filter(None, planned.about):
            display.say(line)
        if resume:
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
    status = Counter(record["status"] for record in records)
    wall_s = time.time() - psutil.Process().create_time()  # with this process's own start-up
    failed = len(records) - status["ok"] - status[SKIPPED]
    totals = {
        "ok": status["ok"],
        SKIPPED: status[SKIPPED],
        "failed": failed,
        "interrupted": interrupted,
        "wall_s": round(wall_s, 1),
        "runner_s": round(wall_s - run.children.seconds, 1),
        "control": control(records, workload),
    }
    print(json.dumps({"records": str(store.path), **paths, **totals}))
    return INTERRUPTED if interrupted else 1 if failed or not status["ok"] else 0


def how(plan: Plan) -> str:
    if plan.turns is None:
        return f"{plan.rounds} round(s)"
    if plan.turns.steps is not None:
        return f"in turns of {plan.turns.steps} steps"
    known, most = percent(plan.turns.resolution), plan.turns.budget_s / 60
    return f"in turns, until gains are known to {known} or for {most:.1f} min"


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

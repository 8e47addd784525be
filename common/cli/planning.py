"""What a ladder's command line asks for, and the plan that follows from it."""

import argparse
import shlex
import sys
import textwrap

from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.machine import command_line
from common.engine.metric import ROUNDS
from common.engine.options import (
    Parser,
    duration,
    output_folder,
    seconds,
    share,
    whole,
    whole_number,
)
from common.engine.plan import Plan, Turns
from common.engine.rungs import REFERENCE
from common.engine.workload import Planned
from ladders import IMPLIED, LADDERS, load

ABOUT = "Climb the ladder on this machine: every rung in fresh processes, nothing downloaded."
ALL = "all"  # in place of a ladder's name
NOT_HERE = ("upto", "only", "attribute", "without", "resolution")  # options of one ladder
RESOLUTION = {"cpu": 0.03, "accelerator": 0.01}
SECONDS_EACH = 40.0  # of a run's budget, for each rung

Asked = dict[str, tuple[Ladder, argparse.Namespace]]  # ladders with their options, by name


def ladder_parser(arguments: list[str] | None, **more) -> Parser:
    """What must be known first: the other options depend on it."""
    parser = Parser(prog="python -m steps.run", description=ABOUT, **more)
    named = f"one of {', '.join(LADDERS)}; or {ALL}, one after another; default: steps"
    given = {one.partition("=")[0] for one in (sys.argv[1:] if arguments is None else arguments)}
    default = next((ladder for option, ladder in IMPLIED.items() if option in given), "steps")
    choices = (*LADDERS, ALL)
    parser.add_argument("--ladder", choices=choices, default=default, metavar="L", help=named)
    return parser


def asked_for(arguments: list[str] | None) -> str:
    """What --ladder names."""
    return ladder_parser(arguments, add_help=False).parse_known_args(arguments)[0].ladder


def typed(arguments: list[str] | None) -> str:
    """The command that asks for this run."""
    if arguments is None:
        return shlex.join(command_line())
    return shlex.join(["python", "-m", "steps.run", *arguments])


def parse(arguments: list[str] | None) -> tuple[Ladder, argparse.Namespace]:
    """The ladder that is asked for, and the options that it has."""
    ladder = load(asked_for(arguments))
    parser = ladder_parser(arguments)
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
    add("--resume", action="store_true", help="go on with the last run of this kind")
    where = "write exactly there; default: a new folder in results/runs"
    add("--out", type=output_folder, metavar="DIR", help=where)
    add("--json", action="store_true", help="end with a line of JSON: paths, counts, seconds")
    return ladder, parser.parse_args(arguments)


def all_parser() -> Parser:
    others = "Every other option is given to each ladder, and must be known to all: --preset"
    parser = Parser(
        prog=f"python -m steps.run --ladder {ALL}",
        description="Climb every ladder, and say what this machine should turn on.",
        epilog=f"{others}, --device, --rounds, …",
    )
    add = parser.add_argument
    add("--ladder", metavar=ALL, help="or a ladder's name: see python -m steps.run --help")
    add("--list", action="store_true", help="show the ladders with their rungs and stop")
    time_left = "for all of them together, each an equal share of what is left; default: none"
    add("--budget", type=duration, metavar="TIME", help=time_left)
    add("--resume", action="store_true", help="go on with the last run of this kind")
    where = "write exactly there; default: a new folder in results/runs"
    add("--out", type=output_folder, metavar="DIR", help=where)
    add("--json", action="store_true", help="end with a line of JSON: paths, counts, seconds")
    return parser


def ask_all(rest: list[str]) -> Asked:
    """The ladders to climb, with their options. Raises UserError for what one does not know."""
    found = {}
    for name in LADDERS:
        if load(name).purpose is None:
            continue
        try:
            ladder, options = parse(["--ladder", name, *rest])
        except UserError as error:
            raise UserError(
                f"{error}: --ladder {ALL} gives it to every ladder, and {name} refuses it"
            ) from error
        for option in NOT_HERE:
            if getattr(options, option) not in (None, False):
                raise UserError(
                    f"--{option}: not with --ladder {ALL}, which climbs every ladder whole; it "
                    "takes --budget, --rounds, --resume, --out, --json, --list, --preset, --device"
                )
        found[name] = ladder, options
    return found


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
        changes = textwrap.shorten(", ".join(rung.changes), 30 - len(branch), placeholder=" …")
        changes += branch
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
    return ladder.workload.prepare(plan), planned


def turns(ladder: Ladder, options: argparse.Namespace, planned: Planned, jobs: int):
    """Whether the rungs take turns, and for how long: None where each is measured by itself.

    By default on CPUs only: there the machine's noise is large, and memory for all of them there.
    """
    asked = options.resolution is not None or options.budget is not None
    timed = ladder.workload.headline.noise == ROUNDS
    by_default = planned.turns and planned.device.type == "cpu"
    if asked and options.rounds is not None:
        raise UserError("--rounds: without --resolution and --budget, which are for turns")
    if asked and not timed:
        raise UserError(f"--resolution and --budget: not for --ladder {options.ladder}, not timed")
    if options.rounds is not None or not timed or not (asked or by_default):
        return None
    usual = RESOLUTION["cpu" if planned.device.type == "cpu" else "accelerator"]
    return Turns(
        resolution=options.resolution or usual,
        budget_s=options.budget or planned.budget_s or SECONDS_EACH * jobs,
        steps=getattr(options, "steps", None),
    )


def extra_jobs(
    ladder: Ladder, options: argparse.Namespace, numbers: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rungs to measure alone, and those to leave out of the full stack.

    What the ladder itself measures is not measured again: rung 1 alone, and the top left out.
    """
    top, stair = ladder.top, ladder.stair
    if not ladder.attributed and (options.attribute or options.without is not None):
        able = [name for name in LADDERS if load(name).attributed]
        raise UserError(f"--attribute and --without: only for --ladder {' and '.join(able)}")
    if options.without is not None:
        number = rung_number(ladder, "--without", options.without, least=1)
        if numbers != tuple(range(top + 1)):
            raise UserError("--without: needs the full stack; leave out --upto and --only")
        if number not in stair:
            raise UserError(f"--without {number}: no other rung stands on it")
        return (), (number,) if number < stair[-1] else ()
    if not options.attribute:
        return (), ()
    if numbers != tuple(range(top + 1)):
        raise UserError("--attribute: needs the whole ladder; leave out --upto and --only")
    return tuple(stair[1:]), tuple(stair[:-1])

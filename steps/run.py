"""Climb the ladder on this machine: python -m steps.run

Measures every rung in a fresh process and leaves records.jsonl, ladder.csv, ladder.md, and
ladder.png in the output folder. Nothing is downloaded.
"""

import argparse
import json
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil

from common.data import read_text, read_tokens, split, write_atomically
from common.device import DeviceFacts, describe_in_child, pick_type
from common.display import Display
from common.engine.errors import UserError, exit_on_user_error
from common.engine.records import Records, sole_writer
from common.engine.rungs import REFERENCE, called
from common.gpu_watch import low_utilisation
from common.ladder import Ladder
from common.measure import Settings
from common.options import Parser, add_workload_options, seconds, whole, workload, writable_folder
from common.plan import Plan
from common.profile_report import profile_markdown, profile_text, to_profile
from common.profiling import ACTIVITIES
from common.report.attribution import attribution_markdown, attribution_text, to_attribution
from common.report.frame import to_csv, to_frame
from common.report.tables import to_markdown, to_text
from common.runner import Climb
from ladders import LADDERS, load
from steps import LADDER, ON_ALL_DEVICES

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def make_parser() -> Parser:
    parser = Parser(prog="python -m steps.run", description=__doc__.splitlines()[0])
    names = ", ".join(LADDERS)
    help_ladder = f"one of {names}; default: steps"
    parser.add_argument("--ladder", choices=LADDERS, default="steps", metavar="L", help=help_ladder)
    parser.add_argument("--list", action="store_true", help="show the rungs and stop")
    parser.add_argument("--upto", metavar="N", help="climb to rung N")
    parser.add_argument("--only", metavar="N[,N…]", help="measure these rungs only")
    add_workload_options(parser)
    several = "processes, where several train together; default: all accelerators, or 2 on a CPU"
    parser.add_argument("--nproc", type=whole(1), metavar="N", help=several)
    add = parser.add_argument_group("measuring").add_argument
    rounds = "fresh processes per rung; default: 3 on accelerators, 2 on CPUs"
    add("--rounds", type=whole(1), metavar="N", help=rounds)
    add("--steps", type=whole(1), metavar="N", help="timed steps")
    add("--warmup", type=whole(2), metavar="N", help="steps before them")
    add("--attribute", action="store_true", help="also each rung alone, and the stack without it")
    add("--without", metavar="N", help="also the full stack without rung N")
    add("--profile", action="store_true", help="also where the time of a step goes")
    add("--trace", type=Path, metavar="DIR", help="the profiles' events, for Chrome or Perfetto")
    add("--validate", action="store_true", help="also the loss on held-out text at the end")
    add("--timeout", type=seconds, default=900.0, metavar="SECONDS", help="per rung; default: 900")
    add("--resume", action="store_true", help="go on with the last run in the output folder")
    add("--out", type=Path, metavar="DIR", help="default: results, or results/L of another ladder")
    return parser


def rung_number(ladder: Ladder, option: str, text: str, least: int = 0) -> int:
    if not text.strip().isdecimal() or not least <= int(text) <= ladder.top:
        raise UserError(f"{option} {text}: must be a rung from {least} to {ladder.top}")
    return int(text)


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
    for number in range(1, ladder.top + 1):
        rung, base = ladder.rung(number), ladder.base(number)
        changes = ", ".join(rung.CHANGES) + (f" (on {base})" if base != number - 1 else "")
        print(f"{number:>2}  {ladder.title(number):<27} {changes:<30} {rung.NUMERICS.value}")
    print(textwrap.fill(ladder.note, 80))


def write_results(records: list[dict], out: Path, ladder: Ladder) -> dict[str, str]:
    """Tables and plots from the records. Returns their paths by kind."""
    from common import plot_losses, plot_profile  # matplotlib takes a second to import
    from common.report import plot

    workload, published = ladder.workload, ladder.published(records)
    paths = {kind: out / f"ladder.{kind}" for kind in ("csv", "md", "png")}
    paths["losses"] = out / "losses.png"
    frame = to_frame(records, workload)
    write_atomically(paths["csv"], to_csv(frame).encode())
    write_atomically(paths["md"], to_markdown(records, workload, published).encode())
    plot.plot_ladder(frame, records, workload, paths["png"])
    plot_losses.plot_losses(records, paths["losses"])
    if any(record["series"] != "ladder" for record in records):
        paths["attribution"] = out / "attribution.png"
        gains = to_attribution(records, workload)
        write_atomically(out / "attribution.csv", to_csv(gains).encode())
        write_atomically(out / "attribution.md", attribution_markdown(gains).encode())
        plot.plot_attribution(gains, workload.describe(records), paths["attribution"])
    profiles = to_profile(records)
    if len(profiles):
        paths["profile"] = out / "profile.png"
        write_atomically(out / "profile.md", profile_markdown(profiles, records).encode())
        plot_profile.plot_profile(profiles, records, paths["profile"])
    return {kind: str(path) for kind, path in paths.items()}


def make_plan(options: argparse.Namespace) -> tuple[Plan, str]:
    """What the options ask for, and a note on what was chosen. Raises UserError."""
    ladder = load(options.ladder)
    device = describe_in_child(pick_type(options.device))
    devices = processes(options, device)
    if ladder is LADDER and devices > 1 and not options.attribute and options.without is None:
        ladder = ON_ALL_DEVICES
    numbers = chosen_rungs(ladder, options.upto, options.only)
    alone, without = extra_jobs(ladder, options, numbers)
    work = workload(options, device)
    plain = replace(work.recipe, devices=devices)
    split(read_tokens(read_text(options.text)), work.shape)  # or say what is wrong with the text
    if (options.profile or options.trace) and device.type not in ACTIVITIES:
        raise UserError(f"--profile: torch's profiler sees no kernels on {device.type}")
    plan = Plan(
        ladder=ladder,
        baseline=ladder.foot(plain, device),
        plain=plain,
        under=tuple(ladder.under(plain, device)),
        device=device,
        settings=Settings(
            shape=work.shape,
            device=device.type,
            steps=options.steps or work.defaults.steps,
            warmup=options.warmup or work.defaults.warmup,
            text=options.text,
            validate=options.validate,
        ),
        numbers=(REFERENCE, *numbers) if ladder.reference and 0 in numbers else numbers,
        alone=alone,
        without=without,
        rounds=options.rounds or (2 if device.type == "cpu" else 3),
        preset=work.preset,
        timeout=options.timeout,
        search_s=work.defaults.search_s,
        profile=options.profile or options.trace is not None,
        traces=options.trace and writable_folder("--trace", options.trace),
    )
    return plan, work.note


def processes(options: argparse.Namespace, device: DeviceFacts) -> int:
    """How many may train together. Raises UserError where --nproc is more than the devices."""
    on_cpu = device.type == "cpu"
    if options.nproc and not on_cpu and options.nproc > device.count:
        raise UserError(f"--nproc {options.nproc}: there are {device.count} {device.type} devices")
    by_default = (2 if options.ladder == "parallel" else 1) if on_cpu else device.count
    return options.nproc or by_default


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
    options = make_parser().parse_args(arguments)
    if options.list:
        list_rungs(load(options.ladder))
        return 0
    plan, note = make_plan(options)
    default = Path("results") / ("" if options.ladder == "steps" else options.ladder)
    out = writable_folder("--out", options.out or default)
    with sole_writer(out):
        return climb(plan, note, options.resume, out)


def climb(plan: Plan, note: str, resume: bool, out: Path) -> int:
    """Measure, write the results, and say what came out. Returns the exit status."""
    store, workload = Records(out / "records.jsonl"), plan.ladder.workload
    interrupted = False
    with Display(len(plan.jobs()) * plan.rounds, plan.rounds, workload) as display:
        run = Climb(plan, store, display)
        print_header(plan, note, display)
        if resume and not store.path.exists():  # so that one command starts and goes on
            display.say(f"nothing to resume in {out}: starting afresh")
        elif resume:
            display.say(f"resuming: {run.resume()} of {display.left} measurements are kept")
        try:
            run.run()
        except KeyboardInterrupt:
            interrupted = True
    if not run.done:
        print("interrupted before the first rung was finished; nothing was recorded")
        return INTERRUPTED
    records = store.read(run.run_facts["run_id"])
    paths = write_results(records, out, plan.ladder)
    print(f"\n{to_text(to_frame(records, workload), workload)}")
    if "attribution" in paths:
        print(f"\n{attribution_text(to_attribution(records, workload))}")
    if "profile" in paths:
        print(f"\n{profile_text(to_profile(records))}")
    elif plan.profile:
        print("   no profile: no rung was measured with one")
    if plan.ladder.note:
        print(textwrap.fill(plan.ladder.note, 80, initial_indent="   ", subsequent_indent="   "))
    for warning in warnings(records):
        print(textwrap.fill(f"   warning: {warning}", 80, subsequent_indent="   "))
    status = Counter(record["status"] for record in records)
    wall_s = time.time() - psutil.Process().create_time()  # with this process's own start-up
    failed = len(records) - status["ok"] - status["n/a"]
    totals = {
        "measurements": len(records),
        "ok": status["ok"],
        "n/a": status["n/a"],
        "failed": failed,
        "interrupted": interrupted,
        "wall_s": round(wall_s, 1),
        "runner_s": round(wall_s - run.child_s, 1),
    }
    print(json.dumps({"records": str(store.path), **paths, **totals}))
    return INTERRUPTED if interrupted else 1 if failed or not status["ok"] else 0


def warnings(records: list[dict]) -> list[str]:
    """Plain sentences on windows in which the GPU was not kept busy or was disturbed."""
    found = {}
    for record in records:
        if record["status"] != "ok":
            continue
        measured = record["measurement"]
        wait = measured["data_wait_s"] / measured["window_s"]
        low = low_utilisation(record["window"], wait, record["recipe"]["batch_size"])
        for text in (low, record["note"] if "disturbed" in record["note"] else None):
            if text:
                found[f"{called(record)}: {text}"] = None
    return list(found)


def print_header(plan: Plan, note: str, display: Display) -> None:
    shape, recipe = plan.settings.shape, plan.baseline
    for line in (
        f"{plan.device.name}: preset {plan.preset}, {plan.rounds} round(s)",
        f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
        f"context {shape.context}, batch {recipe.batch_size}, dropout {recipe.dropout:g}",
        note,
    ):
        if line:
            display.say(line)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())

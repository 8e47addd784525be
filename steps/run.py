"""Climb the ladder on this machine: python -m steps.run

Measures every rung in a fresh process and leaves records.jsonl, ladder.csv, ladder.md, and
ladder.png in the output folder. Nothing is downloaded.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from common.attribution import attribution_markdown, attribution_text, to_attribution
from common.data import read_text, read_tokens, split, write_atomically
from common.device import describe_in_child, pick_type
from common.display import Display
from common.errors import UserError, exit_on_user_error
from common.gpu_watch import low_utilisation
from common.ladder import Ladder
from common.measure import Settings
from common.options import Parser, add_workload_options, seconds, whole, workload, writable_folder
from common.plan import Plan
from common.profile_report import profile_markdown, profile_text, to_profile
from common.profiling import ACTIVITIES
from common.records import Records, sole_writer
from common.runner import Climb
from common.show import to_markdown, to_text
from common.table import to_csv, to_frame
from steps import LADDER

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def make_parser() -> Parser:
    parser = Parser(prog="python -m steps.run", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show the rungs and stop")
    parser.add_argument("--upto", metavar="N", help="climb to rung N")
    parser.add_argument("--only", metavar="N[,N…]", help="measure these rungs only")
    add_workload_options(parser)
    add = parser.add_argument_group("measuring").add_argument
    rounds = "fresh processes per rung; default: 3 on accelerators, 2 on CPUs"
    add("--rounds", type=whole(1), metavar="N", help=rounds)
    add("--steps", type=whole(1), metavar="N", help="timed steps")
    add("--warmup", type=whole(2), metavar="N", help="steps before them")
    add("--attribute", action="store_true", help="also each rung alone, and the stack without it")
    add("--without", metavar="N", help="also the full stack without rung N")
    add("--profile", action="store_true", help="also where the time of a step goes")
    add("--trace", type=Path, metavar="DIR", help="the profiles' events, for Chrome or Perfetto")
    add("--timeout", type=seconds, default=900.0, metavar="SECONDS", help="per rung; default: 900")
    add("--resume", action="store_true", help="go on with the last run in the output folder")
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    return parser


def rung_number(option: str, text: str, least: int = 0) -> int:
    if not text.strip().isdecimal() or not least <= int(text) <= LADDER.top:
        raise UserError(f"{option} {text}: must be a rung from {least} to {LADDER.top}")
    return int(text)


def chosen_rungs(ladder: Ladder, upto: str | None, only: str | None) -> tuple[int, ...]:
    """The rungs that --upto and --only ask for; all without them."""

    if upto is not None and only is not None:
        raise UserError("--upto and --only: give one of them")
    if only is not None:
        return tuple(sorted({rung_number("--only", part) for part in only.split(",")}))
    last = ladder.top if upto is None else rung_number("--upto", upto)
    return tuple(range(last + 1))


def list_rungs(ladder: Ladder) -> None:
    print(" 0  baseline                  every choice at its plain default")
    for number in range(1, ladder.top + 1):
        rung = ladder.rung(number)
        changes = ", ".join(rung.CHANGES)
        print(f"{number:>2}  {ladder.title(number):<25} {changes:<20} {rung.NUMERICS.value}")


def write_results(records: list[dict], out: Path) -> dict[str, str]:
    """Tables and plots from the records. Returns their paths by kind."""
    from common import plot, plot_profile  # matplotlib takes a second to import

    paths = {kind: out / f"ladder.{kind}" for kind in ("csv", "md", "png")}
    paths["losses"] = out / "losses.png"
    frame = to_frame(records)
    write_atomically(paths["csv"], to_csv(frame).encode())
    write_atomically(paths["md"], to_markdown(records).encode())
    plot.plot_ladder(frame, records, paths["png"])
    plot.plot_losses(records, paths["losses"])
    if any(record["series"] != "ladder" for record in records):
        paths["attribution"] = out / "attribution.png"
        gains = to_attribution(records)
        write_atomically(out / "attribution.csv", to_csv(gains).encode())
        write_atomically(out / "attribution.md", attribution_markdown(gains).encode())
        plot.plot_attribution(gains, records, paths["attribution"])
    profiles = to_profile(records)
    if len(profiles):
        paths["profile"] = out / "profile.png"
        write_atomically(out / "profile.md", profile_markdown(profiles, records).encode())
        plot_profile.plot_profile(profiles, records, paths["profile"])
    return {kind: str(path) for kind, path in paths.items()}


def make_plan(options: argparse.Namespace) -> tuple[Plan, str]:
    """What the options ask for, and a note on what was chosen. Raises UserError."""
    numbers = chosen_rungs(LADDER, options.upto, options.only)
    device = describe_in_child(pick_type(options.device))
    work = workload(options, device)
    windows, _ = split(read_tokens(read_text(options.text)), work.shape)
    if (options.profile or options.trace) and device.type not in ACTIVITIES:
        raise UserError(f"--profile: torch's profiler sees no kernels on {device.type}")
    alone, without = extra_jobs(options, numbers)
    plan = Plan(
        ladder=LADDER,
        baseline=work.recipe,
        device=device,
        settings=Settings(
            shape=work.shape,
            device=device.type,
            steps=options.steps or work.defaults.steps,
            warmup=options.warmup or work.defaults.warmup,
            text=options.text,
        ),
        numbers=numbers,
        alone=alone,
        without=without,
        rounds=options.rounds or (2 if device.type == "cpu" else 3),
        preset=work.preset,
        timeout=options.timeout,
        search_s=work.defaults.search_s,
        windows=len(windows),
        profile=options.profile or options.trace is not None,
        traces=options.trace and writable_folder("--trace", options.trace),
    )
    return plan, work.note


def extra_jobs(options, numbers: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rungs to measure alone, and those to leave out of the full stack.

    What the ladder itself measures is not measured again: rung 1 alone, and the top left out.
    """
    top = LADDER.top
    if options.without is not None:
        number = rung_number("--without", options.without, least=1)
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
        list_rungs(LADDER)
        return 0
    plan, note = make_plan(options)
    out = writable_folder("--out", options.out)
    with sole_writer(out):
        return climb(plan, note, options.resume, out)


def climb(plan: Plan, note: str, resume: bool, out: Path) -> int:
    """Measure, write the results, and say what came out. Returns the exit status."""
    store = Records(out / "records.jsonl")
    if resume and not store.path.exists():
        raise UserError(f"--resume: {out} holds no records; leave it out for a first run")
    interrupted = False
    with Display(len(plan.jobs()) * plan.rounds, plan.rounds) as display:
        run = Climb(plan, store, display)
        print_header(plan, note, display)
        if resume:
            display.say(f"resuming: {run.resume()} of {display.left} measurements are kept")
        try:
            run.run()
        except KeyboardInterrupt:
            interrupted = True
    if not run.done:
        print("interrupted before the first rung was finished; nothing was recorded")
        return INTERRUPTED
    records = store.read(run.run_facts["run_id"])
    paths = write_results(records, out)
    print(f"\n{to_text(to_frame(records))}")
    if "attribution" in paths:
        print(f"\n{attribution_text(to_attribution(records))}")
    if "profile" in paths:
        print(f"\n{profile_text(to_profile(records))}")
    elif plan.profile:
        print("   no profile: no rung was measured with one")
    for warning in warnings(records):
        print(f"   warning: {warning}")
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
    return INTERRUPTED if interrupted else 1 if failed else 0


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
                found[f"rung {record['rung']}: {text}"] = None
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

"""Climb the ladder on this machine: python -m steps.run

Measures every rung in a fresh process and leaves records.jsonl, ladder.csv, ladder.md, and
ladder.png in the output folder. Nothing is downloaded.
"""

import json
import sys
import time
from pathlib import Path

from common.data import read_text, read_tokens, split, write_atomically
from common.device import describe_in_child, pick_type
from common.display import Display
from common.errors import UserError, exit_on_user_error
from common.ladder import Ladder
from common.measure import Settings
from common.options import (
    Parser,
    Workload,
    add_workload_options,
    seconds,
    whole,
    workload,
    writable_folder,
)
from common.records import Records
from common.runner import Climb, Plan
from common.table import to_csv, to_frame, to_markdown, to_text
from steps import LADDER

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def make_parser() -> Parser:
    parser = Parser(prog="python -m steps.run", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show the rungs and stop")
    parser.add_argument("--upto", metavar="N", help="climb to rung N")
    parser.add_argument("--only", metavar="N[,N…]", help="measure these rungs only")
    add_workload_options(parser)
    group = parser.add_argument_group("measuring")
    group.add_argument("--steps", type=whole(1), metavar="N", help="timed steps")
    group.add_argument("--warmup", type=whole(2), metavar="N", help="steps before them")
    group.add_argument(
        "--timeout",
        type=seconds,
        default=900.0,
        metavar="SECONDS",
        help="for one rung; default: 900",
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="output folder; default: results",
    )
    return parser


def chosen_rungs(ladder: Ladder, upto: str | None, only: str | None) -> tuple[int, ...]:
    """The rungs that --upto and --only ask for; all without them."""

    def number(option: str, text: str) -> int:
        if not text.strip().isdecimal() or int(text) > ladder.top:
            raise UserError(f"{option} {text}: must be a rung from 0 to {ladder.top}")
        return int(text)

    if upto is not None and only is not None:
        raise UserError("--upto and --only: give one of them")
    if only is not None:
        return tuple(sorted({number("--only", part) for part in only.split(",")}))
    last = ladder.top if upto is None else number("--upto", upto)
    return tuple(range(last + 1))


def list_rungs(ladder: Ladder) -> None:
    print(" 0  baseline                  every choice at its plain default")
    for number in range(1, ladder.top + 1):
        rung = ladder.rung(number)
        changes = ", ".join(rung.CHANGES)
        print(f"{number:>2}  {ladder.title(number):<25} {changes:<20} {rung.NUMERICS.value}")


def write_results(records: list[dict], out: Path) -> dict[str, str]:
    """ladder.csv, ladder.md, and ladder.png from the records. Returns their paths."""
    from common.plot import plot_ladder  # matplotlib takes a second to import

    frame = to_frame(records)
    paths = {kind: out / f"ladder.{kind}" for kind in ("csv", "md", "png")}
    write_atomically(paths["csv"], to_csv(frame).encode())
    write_atomically(paths["md"], to_markdown(frame, records).encode())
    plot_ladder(frame, records, paths["png"])
    return {kind: str(path) for kind, path in paths.items()}


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    numbers = chosen_rungs(LADDER, options.upto, options.only)
    if options.list:
        list_rungs(LADDER)
        return 0
    begin = time.perf_counter()
    device = describe_in_child(pick_type(options.device))
    work = workload(options, device)
    windows, _ = split(read_tokens(read_text(options.text)), work.shape)
    settings = Settings(
        shape=work.shape,
        device=device.type,
        steps=options.steps or work.defaults.steps,
        warmup=options.warmup or work.defaults.warmup,
        text=options.text,
    )
    out = writable_folder("--out", options.out)
    plan = Plan(
        ladder=LADDER,
        baseline=work.recipe,
        device=device,
        settings=settings,
        numbers=numbers,
        preset=work.preset,
        timeout=options.timeout,
        search_s=work.defaults.search_s,
        windows=len(windows),
    )
    store = Records(out / "records.jsonl")
    interrupted = False
    with Display(len(numbers)) as display:
        climb = Climb(plan, store, display)
        print_header(work, climb, display)
        try:
            climb.run()
        except KeyboardInterrupt:
            interrupted = True
    if not display.records:
        print("interrupted before the first rung was finished; nothing was recorded")
        return INTERRUPTED
    records = store.read(climb.facts["run_id"])
    paths = write_results(records, out)
    wall_s = time.perf_counter() - begin
    print(f"\n{to_text(to_frame(records))}")
    count = {s: sum(r["status"] == s for r in records) for s in ("ok", "n/a")}
    failed = len(records) - count["ok"] - count["n/a"]
    totals = {
        "rungs": len(records),
        "ok": count["ok"],
        "n/a": count["n/a"],
        "failed": failed,
        "interrupted": interrupted,
        "wall_s": round(wall_s, 1),
        "runner_s": round(wall_s - climb.child_s, 1),
    }
    print(json.dumps({"records": str(store.path), **paths, **totals}))
    return INTERRUPTED if interrupted else 1 if failed else 0


def print_header(work: Workload, climb: Climb, display: Display) -> None:
    shape, recipe = work.shape, work.recipe
    for line in (
        f"{climb.plan.device.name}: preset {work.preset}",
        f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
        f"context {shape.context}, batch {recipe.batch_size}, dropout {recipe.dropout:g}",
        work.note,
    ):
        if line:
            display.console.print(line, markup=False)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())

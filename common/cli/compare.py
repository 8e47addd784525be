"""Two runs beside each other: python -m steps.compare A B

A and B are runs: `last`, `last-1` (the one before it), a folder, or a records.jsonl. Prints which
settings and machine facts differ, then the ratio B / A of every rung, by itself and relative to the
run's, with its 95 % interval, then what only one of them has.
"""

import textwrap

from common.cli.runs import find_run
from common.engine.metric import EXACT
from common.engine.options import Parser
from common.engine.records import as_records_of
from common.engine.rungs import shown
from common.engine.stats import UNJUDGED
from common.engine.workload import Workload
from common.report.comparison import (
    LEAST,
    apart,
    compare,
    differences,
    pair_up,
    read_run,
    same_ladder,
)
from common.report.tables import bound, cell
from ladders import workload_of

NAMES = "a run: last, last-1, …, a folder, or a records.jsonl"


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.compare", description=__doc__.splitlines()[0])
    parser.add_argument("a", metavar="A", help=NAMES)
    parser.add_argument("b", metavar="B", help="another one")
    options = parser.parse_args(arguments)
    options.a, options.b = find_run(options.a), find_run(options.b)
    a, b = read_run(options.a), read_run(options.b)
    workload = workload_of(same_ladder(a, b))
    with as_records_of(options.a, options.b):
        show(a, b, workload)
    return 0


def about_whole(frame) -> str:
    """What the rungs' own ratios are relative to."""
    whole = (
        f"x run: B / A of the rung over that of the run, its median rung's {frame['whole'][0]:.2f}"
    )
    if (frame["verdict"] == UNJUDGED).all():
        return f"{whole}. Not judged: that takes {LEAST} rungs in common, and two rounds of each."
    return f"{whole}, which may be the machine's: runs apart in time cannot tell."


def show(a: list[dict], b: list[dict], workload: Workload) -> None:
    frame, headline = compare(a, b, workload), workload.headline
    found = differences(a, b, workload)
    print("what differs:" if found else "settings, machine, versions, and commit are the same")
    for fact, one, other in found:
        print(f"  {fact}: {one} -> {other}")
    heads = "".join(f"{run + ' ' + headline.title:>9}" for run in "AB")
    print(f"\n{'':>2} {'rung':<25}{heads}{'B / A':>6}{'x run':>6}  95 %")
    for row in frame.to_dict("records"):
        low, high = (cell(row[f"relative_{end}"], ".2f", "?") for end in ("low", "high"))
        interval = "" if headline.noise == EXACT else f"  {low} to {high}"
        print(
            f"{shown(row['rung']):>2} {row['name']:<25}{headline.text(row['a']):>9}"
            f"{headline.text(row['b']):>9}{row['ratio']:>6.2f}{row['relative']:>6.2f}{interval}"
            f"  {bound(row['verdict'])}"
        )
    if headline.noise != EXACT:
        print(textwrap.fill(f"   {about_whole(frame)}", 80, subsequent_indent="   "))
    if left := apart(pair_up(a, b, workload)):
        print("not compared, as A -> B:")
    for pair in left:
        print(textwrap.fill(str(pair), 80, subsequent_indent=" " * 4))

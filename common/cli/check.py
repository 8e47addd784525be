"""Is anything slower than it was? python -m steps.check --against BASELINE

Compares a run with a stored one, rung by rung. Exit status 1 if a rung is slower than the noise of
the two runs allows, or was measured in the stored one and cannot be compared; 2 if none can be.
"""

import textwrap

from common.engine.errors import UserError
from common.engine.options import Parser
from common.engine.records import as_records_of
from common.engine.rungs import shown
from common.engine.stats import UNJUDGED
from common.engine.workload import Workload
from common.report.comparison import apart, compare, differences, pair_up, read_run, same_ladder
from ladders import workload_of


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.check", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="BASELINE", help="the stored records")
    parser.add_argument("run", nargs="?", default="results", metavar="RUN", help="default: results")
    options = parser.parse_args(arguments)
    baseline, run = read_run(options.against), read_run(options.run)
    workload = workload_of(same_ladder(baseline, run))
    with as_records_of(options.against, options.run):
        return verdict(baseline, run, workload)


def verdict(baseline: list[dict], run: list[dict], workload: Workload) -> int:
    """Say what became slower, and what has no figure any more; the exit status."""
    left = apart(pair_up(baseline, run, workload))
    for pair in left:
        print(textwrap.fill(f"not compared: {pair}", 80, subsequent_indent=" " * 4))
    frame, headline = compare(baseline, run, workload), workload.headline
    if (frame["verdict"] == UNJUDGED).all():
        raise UserError("neither run has two rounds, so noise is unknown: --rounds 2 or more")
    for fact, one, other in differences(baseline, run, workload):
        print(f"note: {fact} differs: {one} -> {other}")
    print(f"{'':>2} {'rung':<25}{'target':>9}{'actual':>9}{'%':>6}")
    for row in frame.to_dict("records"):
        print(
            f"{shown(row['rung']):>2} {row['name']:<25}{headline.text(row['a']):>9}"
            f"{headline.text(row['b']):>9}{100 * row['ratio']:>6.0f}  {row['verdict']}"
        )
    _, worse = headline.words
    slower = frame[frame["verdict"] == worse]
    print(f"{len(slower)} of {len(frame)} rungs are {worse} than noise allows")
    lost = [pair for pair in left if pair.lost]
    if left:
        print(f"{len(left)} more could not be compared; {len(lost)} of them had a target")
    return 1 if len(slower) or lost else 0

"""Is anything slower than it was? python -m steps.check --against BASELINE

Compares a run with a stored one, rung by rung, each relative to its run as a whole. Exit status 1
if a rung is slower than the noise of the two runs allows, if it was measured in the stored one and
cannot be compared, or if the whole run is slower than --drift allows; 2 if nothing can be judged.
"""

import textwrap

from common.cli.runs import find_run
from common.engine.errors import UserError
from common.engine.metric import EXACT, LOWER, Metric
from common.engine.options import Parser, share
from common.engine.records import as_records_of
from common.engine.rungs import shown
from common.engine.stats import UNJUDGED, percent
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
from ladders import workload_of


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.check", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="BASELINE", help="the stored run")
    run = "the run to check: last, last-1, …, a folder, or a records.jsonl; default: last"
    parser.add_argument("run", nargs="?", default="last", metavar="RUN", help=run)
    whole = "how much slower the run as a whole may be, as the machine may; default: 10%%"
    parser.add_argument("--drift", type=share, default=0.1, metavar="P%", help=whole)
    options = parser.parse_args(arguments)
    against = find_run(options.against)
    baseline = read_run(against)
    named = find_run(options.run)
    run = read_run(named)
    workload = workload_of(same_ladder(baseline, run))
    with as_records_of(against, named):
        return verdict(baseline, run, workload, options.drift)


def verdict(baseline: list[dict], run: list[dict], workload: Workload, drift: float) -> int:
    """Say what became slower, and what has no figure any more; the exit status."""
    left = apart(pair_up(baseline, run, workload))
    for pair in left:
        print(textwrap.fill(f"not compared: {pair}", 80, subsequent_indent=" " * 4))
    frame, headline = compare(baseline, run, workload), workload.headline
    lost = [pair for pair in left if pair.lost]
    if (frame["verdict"] == UNJUDGED).all() and not lost:
        raise UserError(
            f"nothing can be judged: that takes two rounds (--rounds 2 or more), and {LEAST} rungs "
            f"in common; there are {len(frame)}"
        )
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
    drifted = worsening(frame, headline) > drift
    if headline.noise != EXACT:
        print(textwrap.fill(f"{about_whole(frame, drift, drifted)}", 80))
    print(f"{len(slower)} of {len(frame)} rungs are {worse} than noise allows")
    if left:
        print(f"{len(left)} more could not be compared; {len(lost)} of them had a target")
    return 1 if len(slower) or lost or drifted else 0


def worsening(frame, headline: Metric) -> float:
    """How much worse the run is as a whole, as a share; below 0 where it is better."""
    whole = frame["whole"].iloc[0]
    return whole - 1 if headline.better == LOWER else 1 / whole - 1


def about_whole(frame, drift: float, drifted: bool) -> str:
    """Rungs are judged relative to the run; what is said of the run itself."""
    whole = f"The run as a whole is at {frame['whole'].iloc[0]:.0%} of the stored one"
    limit = f"slower than --drift {percent(drift)} allows" if drifted else "which is left out above"
    return f"{whole}, {limit}: runs apart in time cannot tell code that is slower from a machine."

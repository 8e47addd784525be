"""Is anything slower than it was? python -m steps.check --against BASELINE

Compares a run with a stored one, rung by rung. Exit status 1 if a rung is slower than the noise of
the two runs allows, 2 if they cannot be compared.
"""

import sys

from common.comparison import compare, differences, read_run
from common.errors import UserError, exit_on_user_error
from common.ladder import shown
from common.options import Parser
from common.stats import SLOWER, UNJUDGED


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.check", description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="BASELINE", help="the stored records")
    parser.add_argument("run", nargs="?", default="results", metavar="RUN", help="default: results")
    options = parser.parse_args(arguments)
    baseline, run = read_run(options.against), read_run(options.run)
    frame = compare(baseline, run)
    if (frame["verdict"] == UNJUDGED).all():
        raise UserError("neither run has two rounds, so noise is unknown: --rounds 2 or more")
    for fact, one, other in differences(baseline, run):
        print(f"note: {fact} differs: {one} -> {other}")
    print(f"{'':>2} {'rung':<25}{'target':>9}{'actual':>9}{'%':>6}")
    for row in frame.to_dict("records"):
        print(
            f"{shown(row['rung']):>2} {row['name']:<25}{row['tok_per_s_a']:>9,.0f}"
            f"{row['tok_per_s_b']:>9,.0f}{100 * row['ratio']:>6.0f}  {row['verdict']}"
        )
    slower = frame[frame["verdict"] == SLOWER]
    print(f"{len(slower)} of {len(frame)} rungs are slower than noise allows")
    return 1 if len(slower) else 0


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())

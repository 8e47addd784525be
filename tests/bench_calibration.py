"""How often the same is called faster or slower, and how often a gain is found.

python -m tests.bench_calibration made-up [RUNS]: on made-up machines; minutes for 1000.
python -m tests.bench_calibration real [RUNS]: A/A ladders on this machine, 100 seconds each.
python -m tests.bench_calibration slowed [RUNS]: the same, the last rung 3 % slower.
"""

import os
import sys
import tempfile
from pathlib import Path

import ladders
from common.cli import run
from common.engine.gains import Gains
from common.engine.records import Records
from common.engine.stats import percent, smallest, verdict
from tests.noise import KINDS, MACHINES, Machine, false_tables, found

SHAPE = ("--layers", "4", "--heads", "4", "--emb-dim", "256", "--context", "128")


def made_up(runs: int) -> None:
    print(f"{'share of tables with a false verdict':<38}" + "".join(f"{k:>10}" for k in KINDS))
    for name, machine in MACHINES.items():
        wrong = false_tables(machine, runs)
        print(f"{name:<38}" + "".join(f"{wrong[kind]:>10.1%}" for kind in KINDS), flush=True)
    for gain in (0.02, 0.03, 0.05):
        print(f"a gain of {gain:.0%} is found in {found(Machine(), gain, runs):.0%} of runs")


def real(runs: int, slowed: bool = False) -> None:
    if slowed:
        os.environ["LADDER_SLOW"] = "0.03"
    from tests.same import LADDER  # reads it

    ladders.LADDERS["same"] = LADDER.name
    wrong, right = dict.fromkeys(("below", "baseline", "twin"), 0), 0
    for number in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            run.main(["--ladder", "same", "--budget", "100s", *SHAPE, "--out", folder])
            table = Gains(Records(Path(folder) / "records.jsonl").read(), LADDER.workload.headline)
        below, base = table.told(table.over_below()), table.told(table.over_baseline())
        slow = below.pop(4) if slowed else None
        same = {"below": below, "baseline": {n: e for n, e in base.items() if n in below}}
        for kind, estimates in same.items():
            wrong[kind] += any(one.told for one in estimates.values())
        wrong["twin"] += table.differs()
        bounds = [percent(smallest(one)) for one in below.values()]
        print(f"{number}: bounds {', '.join(bounds)}; false so far {wrong}", flush=True)
        if slow:
            right += slow.told and slow.value < 0
            said = verdict(slow, LADDER.workload.headline.words)
            print(f"  the slow one: {slow.value:+.1%} +- {slow.half:.1%}, {said}; found {right}")


if __name__ == "__main__":
    kind, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    made_up(runs or 1000) if kind == "made-up" else real(runs or 20, kind == "slowed")

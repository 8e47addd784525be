"""Kill a run of the ladder at random moments, also inside a compilation, and resume it each time.

python -m tests.bench_kills [TRIALS [SEED]]: half an hour for 20. Each has its own compile cache.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.engine.records import Records
from tests.conftest import PROJECT

SHAPE = ("--layers", "1", "--heads", "1", "--emb-dim", "4", "--context", "8", "--batch-size", "2")
RUNGS = "0,1,8,9"  # the first compiled ones among them
COMMAND = ("-m", "steps.run", "--preset", "tiny", "--device", "cpu", *SHAPE, "--rounds", "1")


def start(folder: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *COMMAND, "--only", RUNGS, "--out", str(folder / "out"), *more],
        cwd=PROJECT,
        env=os.environ | {"LADDER_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def compiles(folder: Path) -> bool:
    """Whether the compiler is at work: it has written sources that have no library yet."""
    cache = folder / "cache"
    return any(not source.with_suffix(".so").exists() for source in cache.rglob("*.main.cpp"))


def trial(folder: Path, moment: float) -> tuple[bool, dict[int, str]]:
    """Whether the kill hit a compilation, and how each rung stands after the resumed run."""
    victim = start(folder)
    time.sleep(moment)
    inside = compiles(folder)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    start(folder, "--resume").wait()
    records = Records(folder / "out" / "records.jsonl").read()
    return inside, {record["rung"]: record["status"] for record in records}


def main(trials: int = 20, seed: int = 0) -> int:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        start(Path(folder)).wait()
        whole_s = time.monotonic() - begin
    print(f"a whole run takes {whole_s:.0f} s", flush=True)
    moments, torn = random.Random(seed), 0
    for number in range(trials):
        with tempfile.TemporaryDirectory() as folder:
            moment = moments.uniform(0, whole_s)
            inside, statuses = trial(Path(folder), moment)
        bad = {n: status for n, status in statuses.items() if status not in ("ok", "skipped")}
        whole = len(statuses) == len(RUNGS.split(",")) and not bad
        torn += not whole
        where = ", inside a compilation" if inside else ""
        print(
            f"{number + 1:>2}  killed after {moment:.0f} s{where}: whole {whole} {bad}", flush=True
        )
    print(f"{trials - torn} of {trials} resumed to a whole ladder")
    return torn


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

"""Two runs of a ladder beside each other: what differs between them, then by how much."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from common.engine import stats
from common.engine.errors import UserError
from common.engine.metric import EXACT, LOWER
from common.engine.records import Records, is_file
from common.engine.rungs import shown, stack, why
from common.engine.workload import Workload
from common.report.frame import Headline

FACTS = ("preset", "baseline", "settings", "machine", "versions", "commit", "changes")


def read_run(path: str) -> list[dict]:
    """The last run in a records file, or in a folder that has one. Raises UserError."""
    where = next((p for p in (Path(path), Path(path) / "records.jsonl") if is_file(p)), None)
    if not path or where is None:
        raise UserError(f"{path}: no records there; give a records.jsonl or a folder with one")
    return Records(where).read()


def differences(
    a: list[dict], b: list[dict], workload: Workload
) -> list[tuple[str, object, object]]:
    """(fact, in a, in b) for every setting and machine fact that is not the same."""
    flat = [
        _flatten({key: run[0].get(key) for key in FACTS} | workload.given(run)) for run in (a, b)
    ]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = ((key, flat[0].get(key), flat[1].get(key)) for key in keys)
    return [(key, one, other) for key, one, other in pairs if one != other]


def _flatten(value, prefix: str = "") -> dict:
    if not isinstance(value, dict):
        return {prefix: value}
    found = {}
    for key, inner in value.items():
        found |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return found


def same_ladder(a: list[dict], b: list[dict]) -> str:
    """The ladder of both. Raises UserError if they are of two."""
    if a[0]["ladder"] != b[0]["ladder"]:
        raise UserError(f"different ladders: {a[0]['ladder']} and {b[0]['ladder']}")
    return a[0]["ladder"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A rung as two runs have it: the records of all rounds, none where it was not measured."""

    number: int
    a: list[dict]
    b: list[dict]

    @property
    def name(self) -> str:
        return (self.b or self.a)[-1]["name"]

    @property
    def states(self) -> tuple[str, str]:
        """How it stands in each run: "ok" and on which rungs, why it is not, or that it is not."""
        return state(self.a), state(self.b)

    @property
    def alike(self) -> bool:
        """Whether it was measured in both, on the same rungs."""
        return was_ok(self.a) and was_ok(self.b) and stack(self.a[-1]) == stack(self.b[-1])

    @property
    def lost(self) -> bool:
        """Whether the first run has a figure with which the second has nothing to compare."""
        return was_ok(self.a) and not self.alike

    def __str__(self) -> str:
        before, after = self.states
        return f"{shown(self.number):>2} {self.name:<25} {before} -> {after}"


def was_ok(rounds: list[dict]) -> bool:
    """Whether a rung was measured in all rounds in which it was tried."""
    return bool(rounds) and all(record["status"] == "ok" for record in rounds)


def state(rounds: list[dict]) -> str:
    if not rounds:
        return "not measured"
    if was_ok(rounds):
        below = [str(part) for part in stack(rounds[-1]) if part != rounds[-1]["rung"]]
        return f"ok, on {', '.join(below) or 'no rung'}"
    return why(next(record for record in rounds if record["status"] != "ok"))


def pair_up(a: list[dict], b: list[dict], workload: Workload) -> list[Pair]:
    """Every rung of either run. Raises UserError if the runs are of different ladders."""
    same_ladder(a, b)
    runs = [Headline(run, workload.headline).of("ladder") for run in (a, b)]
    numbers = sorted(runs[0].keys() | runs[1].keys())
    return [Pair(number=n, a=runs[0].get(n, []), b=runs[1].get(n, [])) for n in numbers]


def apart(pairs: list[Pair]) -> list[Pair]:
    """Those of which one run has a figure that cannot be compared with the other's."""
    return [pair for pair in pairs if not pair.alike and (was_ok(pair.a) or was_ok(pair.b))]


def compare(a: list[dict], b: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung measured in both: the headline, the ratio b / a, its interval, a verdict.

    Raises UserError if the runs are of different ladders, are too unlike, or share no rung.
    """
    found = {pair.number: pair for pair in pair_up(a, b, workload) if pair.alike}
    if unlike := workload.unlike(a[0], b[0]):
        raise UserError(f"these runs cannot be compared: {unlike}")
    metric = workload.headline
    logs = {
        number: tuple([math.log(metric.of(r)) for r in rounds] for rounds in (pair.a, pair.b))
        for number, pair in found.items()
    }
    if not logs:
        raise UserError("the records share no rung that was measured in both")
    bounds, verdicts = judged(logs, metric)
    rows = []
    for number, (first, second) in logs.items():
        low, high = bounds[number]
        rows.append(
            {
                "rung": number,
                "name": found[number].name,
                "a": math.exp(median(first)),
                "b": math.exp(median(second)),
                "ratio": math.exp(median(second) - median(first)),
                "ratio_low": math.exp(low),
                "ratio_high": math.exp(high),
                "verdict": verdicts[number],
            }
        )
    return pd.DataFrame(rows)


def judged(pairs: dict, metric) -> tuple[dict, dict]:
    """Intervals of the log ratios b / a by rung, and verdicts: whether b is better."""
    sign = -1 if metric.better == LOWER else 1
    if metric.noise == EXACT:
        gains = {n: sign * (median(b) - median(a)) for n, (a, b) in pairs.items()}
        none = dict.fromkeys(pairs, (math.nan, math.nan))
        return none, {n: stats.verdict(g, g, metric.words) for n, g in gains.items()}
    words = metric.words[::sign]
    return stats.difference_intervals(pairs), stats.difference_verdicts(pairs, words)

"""Two runs of a ladder beside each other: what differs between them, then by how much."""

import math
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from statistics import median

import pandas as pd

from common.engine import stats
from common.engine.errors import UserError
from common.engine.gains import Gains
from common.engine.metric import EXACT, LOWER, ROUNDS, Metric
from common.engine.records import Records, is_file
from common.engine.rungs import shown, stack, why
from common.engine.standing import Standings
from common.engine.workload import Workload

LEAST = 3  # rungs, of which fewer cannot tell one's change from what all share
FACTS = ("preset", "baseline", "settings", "machine", "versions", "commit", "changes")


def read_run(path: str) -> list[dict]:
    """The last run in a records file, or in a folder that has one. Raises UserError."""
    where = next((p for p in (Path(path), Path(path) / "records.jsonl") if is_file(p)), None)
    if where is None and path and Standings.there(Path(path)):
        named = ", ".join(f"{Path(path) / name}" for name in Standings.read(Path(path)).ladders)
        raise UserError(f"{path}: a run of all ladders; give one of them: {named}")
    if not path or where is None:
        raise UserError(f"{path}: no records there; give a records.jsonl or a folder with one")
    return Records(where).read()


def differences(
    a: list[dict], b: list[dict], workload: Workload
) -> list[tuple[str, object, object]]:
    """(fact, in a, in b) for every setting and machine fact that is not the same."""
    flat = [
        flatten({key: run[0].get(key) for key in FACTS} | workload.given(run)) for run in (a, b)
    ]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = ((key, flat[0].get(key), flat[1].get(key)) for key in keys)
    return [(key, one, other) for key, one, other in pairs if one != other]


def flatten(value, prefix: str = "") -> dict:
    if not isinstance(value, dict):
        return {prefix: value}
    found = {}
    for key, inner in value.items():
        found |= flatten(inner, f"{prefix}.{key}" if prefix else key)
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
    def runs(self) -> tuple[list[dict], list[dict]]:
        return self.a, self.b

    @property
    def states(self) -> tuple[str, str]:
        """How it stands in each run: "ok" and on which rungs, why it is not, or that it is not."""
        return state(self.a), state(self.b)

    @property
    def alike(self) -> bool:
        """Whether it was measured in both, on the same rungs. Versions number rungs differently."""
        if not (was_ok(self.a) and was_ok(self.b)):
            return False
        return all(of(self.a[-1]) == of(self.b[-1]) for of in (stack, itemgetter("name")))

    @property
    def lost(self) -> bool:
        """Whether the first run has a figure with which the second has nothing to compare."""
        return was_ok(self.a) and not self.alike

    def __str__(self) -> str:
        before, after = self.states
        if self.a and self.b and self.a[-1]["name"] != self.name:
            before, after = f"{before} ({self.a[-1]['name']})", f"{after} ({self.name})"
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
    runs = [Gains(run, workload.headline).of("ladder") for run in (a, b)]
    numbers = sorted(runs[0].keys() | runs[1].keys())
    return [Pair(number=n, a=runs[0].get(n, []), b=runs[1].get(n, [])) for n in numbers]


def apart(pairs: list[Pair]) -> list[Pair]:
    """Those of which one run has a figure that cannot be compared with the other's."""
    return [pair for pair in pairs if not pair.alike and (was_ok(pair.a) or was_ok(pair.b))]


def compare(a: list[dict], b: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung measured in both: the headline, the ratio b / a, and that to the run's.

    Two runs cannot take turns, so what all rungs of one share may be the machine's doing: `whole`
    is the median rung's ratio, the same in all rows, and `relative` is a rung's own ratio divided
    by it, with its interval. Verdicts are on that. Fewer than LEAST rungs cannot tell the two apart
    and are not judged. What is counted is compared as it is.

    Raises UserError if the runs are of different ladders, are too unlike, or share no rung.
    """
    found = {pair.number: pair for pair in pair_up(a, b, workload) if pair.alike}
    if unlike := workload.unlike(a[0], b[0]):
        raise UserError(f"these runs cannot be compared: {unlike}")
    metric = workload.headline
    logs = {
        number: tuple({r["round"]: metric.level(r)[0] for r in rounds} for rounds in pair.runs)
        for number, pair in found.items()
    }
    if not logs:
        raise UserError("the records share no rung that was measured in both")
    ratios = {n: median(b.values()) - median(a.values()) for n, (a, b) in logs.items()}
    whole = median(ratios.values()) if metric.noise != EXACT else 0.0
    told, verdicts = judged(logs, metric)
    return pd.DataFrame(
        {
            "rung": number,
            "name": found[number].name,
            "a": middle(found[number].a, metric),
            "b": middle(found[number].b, metric),
            "ratio": math.exp(ratios[number]),
            "whole": math.exp(whole),
            "relative": math.exp(told[number].value),
            "relative_low": math.exp(told[number].low),
            "relative_high": math.exp(told[number].high),
            "verdict": verdicts[number],
        }
        for number in logs
    )


def middle(rounds: list[dict], metric: Metric) -> float:
    """The headline over a run's rounds, as its own table has it."""
    if metric.noise == ROUNDS:
        return math.exp(median(metric.level(record)[0] for record in rounds))
    return median(map(metric.of, rounds))


def judged(logs: dict, metric: Metric) -> tuple[dict, dict]:
    """Estimates of the log ratios b / a, relative to the runs', by rung, and verdicts on them."""
    sign = -1 if metric.better == LOWER else 1
    words = metric.words[::sign]
    if metric.noise == EXACT:
        middles = {n: median(b.values()) - median(a.values()) for n, (a, b) in logs.items()}
        told = {n: stats.Estimate(value=value, half=0.0) for n, value in middles.items()}
        return told, {n: stats.verdict(one, words) for n, one in told.items()}
    parts = {}
    for run in (0, 1):
        for number, values in relative({n: pair[run] for n, pair in logs.items()}).items():
            parts[number, run] = [stats.Part(value=value) for value in values]
    means = stats.means(parts)
    changes = {number: means[number, 1] - means[number, 0] for number in logs}
    whole = median(change.value for change in changes.values())
    changes = {number: replace(one, value=one.value - whole) for number, one in changes.items()}
    told = {number: one.estimate(stats.CONFIDENCE) for number, one in changes.items()}
    if len(logs) < LEAST:
        return told, dict.fromkeys(logs, stats.UNJUDGED)
    level = stats.together(len(logs))
    surely = {number: one.estimate(level) for number, one in changes.items()}
    return told, {number: stats.verdict(one, words) for number, one in surely.items()}


def relative(logs: dict[int, dict[int, float]]) -> dict[int, list[float]]:
    """Each rung's values without what all rungs of a round share: the machine's state then.

    Of the rounds that all took part in, where there are two; else of all, as they are.
    """
    rounds = set.intersection(*(set(values) for values in logs.values()))
    if len(rounds) < 2:
        return {number: [*values.values()] for number, values in logs.items()}
    shared = {turn: median(values[turn] for values in logs.values()) for turn in rounds}
    return {n: [values[turn] - shared[turn] for turn in rounds] for n, values in logs.items()}

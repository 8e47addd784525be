"""Two runs of a ladder beside each other: what differs between them, then by how much."""

import math
from pathlib import Path
from statistics import median

import pandas as pd

from common.engine import stats
from common.engine.errors import UserError
from common.engine.metric import EXACT, LOWER
from common.engine.records import Records
from common.engine.rungs import stack
from common.engine.workload import Workload
from common.report.frame import Headline

FACTS = ("preset", "baseline", "settings", "machine", "versions", "commit", "changes")


def read_run(path: str) -> list[dict]:
    """The last run in a records file, or in a folder that has one. Raises UserError."""
    where = Path(path)
    if where.is_dir():
        where = where / "records.jsonl"
    if not where.is_file():
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


def compare(a: list[dict], b: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung measured in both: the headline, the ratio b / a, its interval, a verdict.

    Raises UserError if the runs are of different ladders, are too unlike, or share no rung.
    """
    same_ladder(a, b)
    if unlike := workload.unlike(a[0], b[0]):
        raise UserError(f"these runs cannot be compared: {unlike}")
    metric = workload.headline
    runs = [Headline(run, metric) for run in (a, b)]
    names = {n: rows[-1] for n, rows in runs[1].of("ladder").items()}
    pairs = {}
    for number, record in names.items():
        key = stack(record)
        if record["status"] == "ok" and all(key in r.logs for r in runs):
            pairs[number] = tuple(list(r.logs[key].values()) for r in runs)
    if not pairs:
        raise UserError("the records share no rung that was measured in both")
    bounds, verdicts = judged(pairs, metric)
    rows = []
    for number, (first, second) in pairs.items():
        low, high = bounds[number]
        rows.append(
            {
                "rung": number,
                "name": names[number]["name"],
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

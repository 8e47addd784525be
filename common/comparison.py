"""Two runs of a ladder beside each other: what differs between them, then by how much."""

import math
from pathlib import Path
from statistics import median

import pandas as pd

from common import stats
from common.errors import UserError
from common.records import Records
from common.table import Rates, stack

FACTS = ("preset", "baseline", "settings", "machine", "versions", "commit", "changes")


def read_run(path: str) -> list[dict]:
    """The last run in a records file, or in a folder that has one. Raises UserError."""
    where = Path(path)
    if where.is_dir():
        where = where / "records.jsonl"
    if not where.is_file():
        raise UserError(f"{path}: no records there; give a records.jsonl or a folder with one")
    return Records(where).read()


def differences(a: list[dict], b: list[dict]) -> list[tuple[str, object, object]]:
    """(fact, in a, in b) for every setting and machine fact that is not the same."""
    flat = [
        _flatten({key: run[0].get(key) for key in FACTS} | {"text": _text(run)}) for run in (a, b)
    ]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = ((key, flat[0].get(key), flat[1].get(key)) for key in keys)
    return [(key, one, other) for key, one, other in pairs if one != other]


def _text(run: list[dict]) -> str | None:
    return next((r["measurement"]["text_sha256"][:12] for r in run if r["status"] == "ok"), None)


def _flatten(value, prefix: str = "") -> dict:
    if not isinstance(value, dict):
        return {prefix: value}
    found = {}
    for key, inner in value.items():
        found |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return found


def compare(a: list[dict], b: list[dict]) -> pd.DataFrame:
    """One row per rung measured in both: rates, the ratio b / a with its interval, and a verdict.

    Raises UserError if the runs are of different ladders or shapes, or share no rung.
    """
    if a[0]["ladder"] != b[0]["ladder"]:
        raise UserError(f"different ladders: {a[0]['ladder']} and {b[0]['ladder']}")
    shapes = [run[0]["settings"]["shape"] for run in (a, b)]
    if unlike := [f"{k} {v} and {shapes[1][k]}" for k, v in shapes[0].items() if v != shapes[1][k]]:
        raise UserError(f"different shapes cannot be compared: {', '.join(unlike)}")
    rates = [Rates(run) for run in (a, b)]
    names = {n: rows[-1] for n, rows in rates[1].of("ladder").items()}
    pairs = {}
    for number, record in names.items():
        key = stack(record)
        if record["status"] == "ok" and all(key in r.logs for r in rates):
            pairs[number] = tuple(list(r.logs[key].values()) for r in rates)
    if not pairs:
        raise UserError("the records share no rung that was measured in both")
    bounds, verdicts = stats.difference_intervals(pairs), stats.difference_verdicts(pairs)
    rows = []
    for number, (first, second) in pairs.items():
        low, high = bounds[number]
        rows.append(
            {
                "rung": number,
                "name": names[number]["name"],
                "tok_per_s_a": math.exp(median(first)),
                "tok_per_s_b": math.exp(median(second)),
                "ratio": math.exp(median(second) - median(first)),
                "ratio_low": math.exp(low),
                "ratio_high": math.exp(high),
                "verdict": verdicts[number],
            }
        )
    return pd.DataFrame(rows)

"""Three gains for each rung: in order, alone on the baseline, and left out of the full stack."""

import math

import pandas as pd

from common.engine.contract import SKIPPED
from common.engine.gains import Gains
from common.engine.rungs import why
from common.engine.workload import Workload
from common.report.tables import in_words, markdown_table

KINDS = {"in_order": "in order", "alone": "alone", "left_out": "left out"}


def to_attribution(records: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung: each kind's gain, its 95 % interval, its verdict, or why there is none.

    Left out: how much better the full stack is with the rung than without it.
    """
    gains = Gains(records, workload.headline)
    ladder, alone, without = (gains.of(series) for series in ("ladder", "alone", "without"))
    measured = [tuple(r[-1]["applied"]) for r in ladder.values() if r[-1]["status"] == "ok"]
    left = [tuple(sorted({*r[-1]["applied"], n})) for n, r in without.items()]
    full = max((key for key in measured if key in left), key=len, default=None)
    full = full or max(measured, key=len, default=())
    groups, missing = {}, {}
    for number in sorted(n for n in ladder if n):
        applied = tuple(ladder[number][-1]["applied"])
        rest = tuple(n for n in full if n != number)
        pairs = {
            "in_order": (ladder, applied, applied[:-1]),
            "alone": (alone, (number,), ()),
            "left_out": (without, full, rest),
        }
        for kind, (series, above, below) in pairs.items():
            told = series.get(number, ladder[number])[-1]
            values = gains.ratio(above, below) if number in above else []
            if values and told["status"] != SKIPPED:
                groups[number, kind] = values
            else:
                missing[number, kind] = why(told) if told["status"] != "ok" else "not measured"
    found, verdicts = gains.estimates(groups), gains.verdicts(groups)
    rows = []
    for number in sorted(n for n in ladder if n):
        row = {"rung": number, "name": ladder[number][-1]["name"]}
        for kind in KINDS:
            key = (number, kind)
            if key in groups:
                row[kind] = math.exp(found[key].value)
                row[f"{kind}_low"] = math.exp(found[key].low)
                row[f"{kind}_high"] = math.exp(found[key].high)
                row[f"{kind}_verdict"] = verdicts[key]
            else:
                row[f"{kind}_reason"] = missing[key]
        rows.append(row)
    parts = ("", "_low", "_high", "_verdict", "_reason")
    columns = [f"{kind}{part}" for kind in KINDS for part in parts]
    return pd.DataFrame(rows, columns=["rung", "name", *columns])


def describe(row: dict, kind: str) -> str:
    """One gain in words: with its interval, or why there is none."""
    if pd.isna(row[kind]):
        return row[f"{kind}_reason"]
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    verdict = row[f"{kind}_verdict"]
    interval = "" if pd.isna(low) else f" ({low:.2f} to {high:.2f})"
    return in_words(row[kind], verdict) + interval


def attribution_markdown(frame: pd.DataFrame) -> str:
    head = {"#": "--:", "rung": ":--"} | dict.fromkeys(KINDS.values(), "--:")
    rows = [
        [str(row["rung"]), row["name"], *(describe(row, kind) for kind in KINDS)]
        for row in frame.to_dict("records")
    ]
    return markdown_table(head, rows) + "\n"


def attribution_text(frame: pd.DataFrame) -> str:
    """The three gains in 80 columns."""
    lines = [f"{'':>2} {'rung':<25}" + "".join(f"{title:>17}" for title in KINDS.values())]
    for row in frame.to_dict("records"):
        cells = [_cell(row, kind) for kind in KINDS]
        lines.append(f"{row['rung']:>2} {row['name']:<25}" + "".join(f"{c:>17}" for c in cells))
    return "\n".join(lines)


def _cell(row: dict, kind: str) -> str:
    if pd.isna(row[kind]):
        return row[f"{kind}_reason"].partition(":")[0]
    return in_words(row[kind], row[f"{kind}_verdict"])

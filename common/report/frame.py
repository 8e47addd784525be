"""From records to the table of a ladder: one row per rung, a column per metric."""

import math
from dataclasses import replace
from statistics import fmean, median

import pandas as pd

from common.engine import stats
from common.engine.gains import Gains
from common.engine.metric import EXACT, ROUNDS
from common.engine.plan import LADDER
from common.engine.rungs import proof, why
from common.engine.workload import Workload

OVER = {"median": median, "mean": fmean, "max": max, "first": lambda values: values[0]}
ABOUT = ("rung", "name", "status", "reason")
AFTER = ("verdict", "verdict_base", "smallest_gain", "rounds", "numerics", "note", "base")


def columns(workload: Workload) -> list[str]:
    name = workload.headline.name
    bounds = [f"{one}_{end}" for one in (name, "x_prev") for end in ("low", "high")]
    others = [metric.name for metric in workload.metrics[1:]]
    return [*ABOUT, name, "x_prev", "x_base", *others, "in_effect", *bounds, *AFTER]


def to_frame(records: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung; what was not measured is missing, never 0.

    The headline is the median of the rounds. `x_prev` is the gain over the rung that this one was
    added to and `x_base` over the baseline (Gains.baseline), above 1 where the rung is better, and
    missing where the other was not measured. `attrs["foot"]`: what the baseline is called,
    where it has rungs of another ladder. Bounds are of 95 % intervals; a verdict is
    judged for all rungs together. `smallest_gain`: see stats.smallest, of the gain over the rung
    below, as a share.
    """
    gains, headline = Gains(records, workload.headline), workload.headline
    rungs, counted = gains.of(LADDER), workload.headline.noise == EXACT
    levels = {number: gains.values(key) for number, key in gains.rungs.items()}
    over_below, over_base = gains.over_below(), gains.over_baseline()
    rates, found = gains.estimates(levels), gains.estimates(over_below)
    base, told = gains.estimates(over_base), gains.told(over_below)
    verdicts, base_verdicts = gains.verdicts(over_below), gains.verdicts(over_base)
    rows = []
    for number, of_rung in rungs.items():
        row = _row(of_rung, workload)
        if number in levels:
            if headline.noise == ROUNDS:
                row[headline.name] = math.exp(median(part.value for part in levels[number]))
            else:  # a logarithm would lose a count's last digits, and that a limit was not reached
                row[headline.name] = median(map(headline.of, _good(of_rung)))
            row |= {} if counted else _bounds(headline.name, rates[number])
        if number in found:
            row["x_prev"] = math.exp(found[number].value)
            row |= {} if counted else _bounds("x_prev", found[number])
            row["verdict"] = verdicts[number]
            row["smallest_gain"] = stats.smallest(told[number])
        if number in over_base:
            row["x_base"] = math.exp(base[number].value)
            row["verdict_base"] = base_verdicts[number]
        rows.append(row)
    for metric in workload.metrics:
        if metric.derive:
            found = metric.derive(rows)
            for row in rows:
                row[metric.name] = found.get(row["rung"])
    frame = pd.DataFrame(rows, columns=columns(workload))
    frame.attrs["foot"] = "rung 0" if gains.baseline else ""
    return frame


def _bounds(name: str, found: stats.Estimate) -> dict[str, float]:
    return {f"{name}_low": math.exp(found.low), f"{name}_high": math.exp(found.high)}


def _good(records: list[dict]) -> list[dict]:
    return [record for record in records if record["status"] == "ok"]


def _row(records: list[dict], workload: Workload) -> dict:
    """What needs no other rung: from all rounds of one."""
    good = _good(records)
    told = good[0] if good else records[-1]
    row = {key: told[key] for key in (*ABOUT, "numerics", "note")}
    row |= {"rounds": len(good), "base": told.get("base")}
    if not good:
        return row
    bad = [f"round {r['round']} {why(r)}" for r in records if r not in good]
    row["note"] = "; ".join(filter(None, [row["note"], *bad]))
    row["in_effect"] = proof(told)
    for metric in workload.metrics[1:]:
        if metric.of:
            values = [value for value in map(metric.of, good) if value is not None]
            row[metric.name] = OVER[metric.over](values) if values else None
    return row


def in_units(frame: pd.DataFrame, workload: Workload) -> tuple[pd.DataFrame, Workload]:
    """Figures in the units of their titles, for pictures, and the workload that reads them so."""
    frame = frame.copy()
    for metric in workload.metrics:
        drawn = (metric.name, f"{metric.name}_low", f"{metric.name}_high")
        for column in filter(frame.columns.__contains__, drawn if metric.scale != 1 else ()):
            frame[column] = frame[column].astype(float) / metric.scale
    return frame, replace(workload, metrics=tuple(replace(m, scale=1.0) for m in workload.metrics))


def to_csv(frame: pd.DataFrame) -> str:
    """Whole numbers in full, however large; others to six digits."""
    numbers = frame.select_dtypes("float")
    whole = numbers.columns[(numbers.isna() | (numbers % 1 == 0)).all()]
    return frame.astype(dict.fromkeys(whole, "Int64")).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )

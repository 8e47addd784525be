"""From records to the table of a ladder: one row per rung, a column per metric."""

import math
from collections.abc import Mapping
from statistics import median

import pandas as pd

from common.engine import stats
from common.engine.metric import EXACT, LOWER, Metric
from common.engine.rungs import proof, stack, why
from common.engine.workload import Workload

OVER = {"median": median, "max": max, "first": lambda values: values[0]}
ABOUT = ("rung", "name", "status", "reason")
AFTER = ("verdict", "verdict_base", "rounds", "numerics", "note", "base")


class Headline:
    """Logarithms of the headline metric by what was applied and by round."""

    def __init__(self, records: list[dict], metric: Metric) -> None:
        latest = {(r["round"], r["series"], r["rung"]): r for r in records}
        self.records = list(latest.values())  # a resumed run measures again what had failed
        self.metric = metric
        self.logs: dict[tuple, dict[int, float]] = {}
        for record in self.records:
            if record["status"] == "ok":
                by_round = self.logs.setdefault(stack(record), {})
                by_round[record["round"]] = math.log(metric.of(record))

    def ratio(self, above: tuple, below: tuple) -> list[float]:
        """Log gains, one for each round in which both were measured: above 0 is better."""
        a, b = self.logs.get(above, {}), self.logs.get(below, {})
        sign = -1 if self.metric.better == LOWER else 1
        return [sign * (a[turn] - b[turn]) for turn in sorted(a.keys() & b.keys())]

    def of(self, series: str) -> dict[int, list[dict]]:
        """The records of a series by rung, in order of rounds."""
        found: dict[int, list[dict]] = {}
        for record in sorted(self.records, key=lambda r: (r["rung"], r["round"])):
            if record["series"] == series:
                found.setdefault(record["rung"], []).append(record)
        return found

    def intervals(self, groups: Mapping) -> dict:
        """Intervals of medians; what was counted has none."""
        if self.metric.noise == EXACT:
            return dict.fromkeys(groups, (math.nan, math.nan))
        return stats.intervals(groups)

    def verdicts(self, groups: Mapping) -> dict:
        """What each group of log gains says; of what was counted, any difference says something."""
        if self.metric.noise == EXACT:
            middles = {key: median(values) for key, values in groups.items()}
            return {k: stats.verdict(v, v, self.metric.words) for k, v in middles.items()}
        return stats.verdicts(groups, self.metric.words)


def columns(workload: Workload) -> list[str]:
    name = workload.headline.name
    bounds = [f"{one}_{end}" for one in (name, "x_prev") for end in ("low", "high")]
    others = [metric.name for metric in workload.metrics[1:]]
    return [*ABOUT, name, "x_prev", "x_base", *others, "in_effect", *bounds, *AFTER]


def to_frame(records: list[dict], workload: Workload) -> pd.DataFrame:
    """One row per rung; what was not measured is missing, never 0.

    The headline is the median of the rounds. `x_prev` is the gain over the rung that this one was
    added to and `x_base` over the baseline, without rungs of any ladder, each the median of the
    rounds' own ratios, above 1 where the rung is better, and missing where the other was not
    measured. Bounds are of 95 %
    intervals; a verdict is judged for all rungs together.
    """
    headline = Headline(records, workload.headline)
    name = workload.headline.name
    rungs = headline.of("ladder")
    applied = {n: stack(rows[-1]) for n, rows in rungs.items()}
    logs = {
        n: list(headline.logs[applied[n]].values()) for n in rungs if applied[n] in headline.logs
    }
    logs = {n: v for n, v in logs.items() if any(r["status"] == "ok" for r in rungs[n])}
    gains = _groups({n: headline.ratio(applied[n], applied[n][:-1]) for n in logs if applied[n]})
    over_base = _groups({n: headline.ratio(applied[n], ()) for n in logs if applied[n]})
    bounds, gain_bounds = headline.intervals(logs), headline.intervals(gains)
    verdicts, base_verdicts = headline.verdicts(gains), headline.verdicts(over_base)
    rows = []
    for number, of_rung in rungs.items():
        row = _row(of_rung, workload)
        if number in logs:
            row[name] = math.exp(median(logs[number]))
            row[f"{name}_low"], row[f"{name}_high"] = map(math.exp, bounds[number])
        if number in gains:
            row["x_prev"] = math.exp(median(gains[number]))
            row["x_prev_low"], row["x_prev_high"] = map(math.exp, gain_bounds[number])
            row["verdict"] = verdicts[number]
        if number in over_base:
            row["x_base"] = math.exp(median(over_base[number]))
            row["verdict_base"] = base_verdicts[number]
        rows.append(row)
    for metric in workload.metrics:
        if metric.derive:
            found = metric.derive(rows)
            for row in rows:
                row[metric.name] = found.get(row["rung"])
    return pd.DataFrame(rows, columns=columns(workload))


def _groups(groups: Mapping[int, list[float]]) -> dict[int, list[float]]:
    return {number: values for number, values in groups.items() if values}


def _row(records: list[dict], workload: Workload) -> dict:
    """What needs no other rung: from all rounds of one."""
    good = [record for record in records if record["status"] == "ok"]
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


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

"""From records to the table of a ladder."""

import math
from collections.abc import Mapping
from statistics import mean, median

import pandas as pd

from common import stats

COLUMNS = [
    *("rung", "name", "status", "reason", "tok_per_s", "x_prev", "x_base", "step_ms"),
    *("first_step_s", "peak_reserved_gib", "peak_allocated_gib", "loss", "mfu", "batch_size"),
    *("in_effect", "tok_per_s_low", "tok_per_s_high", "x_prev_low", "x_prev_high", "verdict"),
    *("verdict_base", "rounds", "numerics", "gradient_error", "of_ceiling", "data_wait"),
    *("joule_per_ktok", "utilisation", "note", "base", "processes", "efficiency"),
    "validation_loss",
]


class Rates:
    """Log tokens per second by what was applied and by round."""

    def __init__(self, records: list[dict]) -> None:
        latest = {(r["round"], r["series"], r["rung"]): r for r in records}
        self.records = list(latest.values())  # a resumed run measures again what had failed
        self.logs: dict[tuple, dict[int, float]] = {}
        for record in self.records:
            if record["status"] == "ok":
                by_round = self.logs.setdefault(stack(record), {})
                by_round[record["round"]] = math.log(tok_per_s(record))

    def ratio(self, above: tuple, below: tuple) -> list[float]:
        """Log ratios, one for each round in which both were measured."""
        a, b = self.logs.get(above, {}), self.logs.get(below, {})
        return [a[turn] - b[turn] for turn in sorted(a.keys() & b.keys())]

    def of(self, series: str) -> dict[int, list[dict]]:
        """The records of a series by rung, in order of rounds."""
        found: dict[int, list[dict]] = {}
        for record in sorted(self.records, key=lambda r: (r["rung"], r["round"])):
            if record["series"] == series:
                found.setdefault(record["rung"], []).append(record)
        return found


def stack(record: dict) -> tuple:
    """What the record's recipe has on top of the plain one, those of another ladder by name."""
    return (*record.get("under", ()), *record["applied"])


def tok_per_s(record: dict) -> float:
    """Tokens per second at the median step of one process."""
    measured = record["measurement"]
    return measured["tokens_per_step"] / median(measured["step_s"])


def proof(record: dict) -> str:
    """What the rung's probe saw; of a foot, which rungs of the other ladder were seen to act."""
    seen = record["measurement"]["in_effect"]
    under = [name.split() for name in record.get("under", ()) if name in seen]
    if record["rung"] or not under:
        return seen.get(str(record["rung"]), "")
    return f"{under[0][0]} {', '.join(number for _, number in under)}"


def to_frame(records: list[dict]) -> pd.DataFrame:
    """One row per rung, with COLUMNS; what was not measured is missing, never 0.

    `tok_per_s` is the median of the rounds' medians. `x_prev` is the gain over the rung that this
    one was added to and `x_base` over the baseline, without rungs of any ladder, each the median of
    the rounds' own ratios, and missing where the other was not measured. Bounds are of 95 %
    intervals; a verdict is judged for all rungs together.
    """
    rates = Rates(records)
    rungs = rates.of("ladder")
    applied = {n: stack(rows[-1]) for n, rows in rungs.items()}
    logs = {n: list(rates.logs[applied[n]].values()) for n in rungs if applied[n] in rates.logs}
    logs = {n: v for n, v in logs.items() if any(r["status"] == "ok" for r in rungs[n])}
    gains = _groups({n: rates.ratio(applied[n], applied[n][:-1]) for n in logs if applied[n]})
    over_base = _groups({n: rates.ratio(applied[n], ()) for n in logs if applied[n]})
    bounds, gain_bounds = stats.intervals(logs), stats.intervals(gains)
    verdicts, base_verdicts = stats.verdicts(gains), stats.verdicts(over_base)
    rows = []
    for number, of_rung in rungs.items():
        row = _row(of_rung)
        if number in logs:
            row["tok_per_s"] = math.exp(median(logs[number]))
            row["tok_per_s_low"], row["tok_per_s_high"] = map(math.exp, bounds[number])
            row |= _shares(of_rung, row["tok_per_s"])
        if number in gains:
            row["x_prev"] = math.exp(median(gains[number]))
            row["x_prev_low"], row["x_prev_high"] = map(math.exp, gain_bounds[number])
            row["verdict"] = verdicts[number]
            row["efficiency"] = _efficiency(rates, applied[number], of_rung)
        if number in over_base:
            row["x_base"] = math.exp(median(over_base[number]))
            row["verdict_base"] = base_verdicts[number]
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _efficiency(rates: Rates, applied: tuple, records: list[dict]) -> float | None:
    """The share of one process's rate that each of several keeps.

    The one process is the last rung on the way up that is measured with one; None without it.
    """
    processes = records[-1].get("processes") or 1
    alone = {stack(r) for r in rates.records if r.get("processes") == 1}
    below = [applied[:end] for end in range(len(applied)) if applied[:end] in alone]
    gains = rates.ratio(applied, below[-1]) if below and processes > 1 else []
    return math.exp(median(gains)) / processes if gains else None


def _groups(groups: Mapping[int, list[float]]) -> dict[int, list[float]]:
    return {number: values for number, values in groups.items() if values}


def _row(records: list[dict]) -> dict:
    """What needs no other rung: from all rounds of one."""
    good = [record for record in records if record["status"] == "ok"]
    told = good[0] if good else records[-1]
    row = {key: told[key] for key in ("rung", "name", "status", "reason", "numerics", "note")}
    row["rounds"] = len(good)
    row |= {"base": told.get("base"), "processes": told.get("processes")}
    checks = [r["equivalence"]["worst_gradient_error"] for r in records if r.get("equivalence")]
    row["gradient_error"] = checks[0] if checks else None
    if not good:
        return row
    bad = [f"round {r['round']} {r['status']}: {r['reason']}" for r in records if r not in good]
    measured = [record["measurement"] for record in good]
    steps = told["settings"]["steps"]
    allocated = [m["peak_allocated_gib"] for m in measured]
    return (
        row
        | {
            "note": "; ".join(filter(None, [row["note"], *bad])),
            "step_ms": 1e3 * median(median(m["step_s"]) for m in measured),
            "first_step_s": measured[0]["first_step_s"],  # the cold one: later rounds find caches
            "peak_reserved_gib": max(m["peak_reserved_gib"] for m in measured),
            "peak_allocated_gib": None if None in allocated else max(allocated),
            "loss": mean(measured[0]["losses"][-steps:]),
            "batch_size": told["recipe"]["batch_size"],
            "validation_loss": measured[0].get("validation_loss"),
            "in_effect": proof(good[0]),
            "data_wait": median(m["data_wait_s"] / m["window_s"] for m in measured),
        }
    )


def _shares(records: list[dict], rate: float) -> dict:
    """The rate against the device's peak and measured ceiling, and what it cost."""
    good = [record for record in records if record["status"] == "ok"]
    first = good[0]
    devices = first.get("processes") if first["settings"]["device"] != "cpu" else 1
    flops = rate * first["flops_per_token"] / (devices or 1)
    ceiling = first["ceilings"].get(first["format"])
    tokens = [len(r["measurement"]["step_s"]) * r["measurement"]["tokens_per_step"] for r in good]
    windows = [record["window"] for record in good]
    energy = [
        1e3 * window["energy_j"] / count
        for window, count in zip(windows, tokens, strict=True)
        if window.get("energy_j") is not None
    ]
    used = [w["utilisation"] for w in windows if w.get("utilisation") is not None]
    return {
        "mfu": share_of(flops, first["peak_flops"]),
        "of_ceiling": flops / ceiling if ceiling else None,
        "joule_per_ktok": median(energy) if energy else None,
        "utilisation": median(used) if used else None,
    }


def share_of(flops: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation; None for an unknown peak, or one that was beaten and so is wrong."""
    return flops / peak if peak and flops <= peak else None


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

"""What a page says of a whole run: its outcome, what to know before reading on, its tables."""

import math
from collections.abc import Iterable

import pandas as pd

from common.engine.contract import SKIPPED
from common.engine.gains import Gains
from common.engine.ladder import Ladder
from common.engine.metric import BRIEF, EXACT, LOWER, PAGE, Metric
from common.engine.plan import LADDER
from common.engine.rungs import REFERENCE, shown, stack, why
from common.engine.stats import is_open
from common.engine.workload import Workload
from common.report import ending
from common.report.page_words import BASELINE_JA, OUTCOME, said
from common.report.tables import bound, control, device_type, gain, is_stair, spread


def present(value) -> bool:
    return value is not None and not pd.isna(value)


def sentence(frame: pd.DataFrame, workload: Workload) -> str:
    """The outcome in one Japanese sentence, as `ending.headline` has it in English."""
    rows, headline = frame.to_dict("records"), workload.headline
    best, foot = ending.summit(rows), frame.attrs["foot"] or BASELINE_JA
    if best is None:
        return OUTCOME["none"].format(foot=foot)
    if headline.noise != EXACT and is_open(best["verdict_base"]):
        return OUTCOME["open"].format(
            foot=foot, what=headline.title, said=said(best["verdict_base"], "ja")
        )
    times = f"{best['x_base']:.{1 if round(best['x_base'], 2) >= 2 else 2}f}"
    kind = "over_lower" if headline.better == LOWER else "over"
    text = OUTCOME[kind].format(times=times, what=headline.title, foot=foot)
    stands_on = ending.under(rows, best)
    made = sorted(ending.told(stands_on, up=True), key=lambda row: -row["x_prev"])
    names = "、".join(f"{r['name']} x{r['x_prev']:.2f}" for r in made[: ending.MOST_NAMED])
    if names:
        return OUTCOME["mostly"].format(text=text, names=names)
    return text if is_stair(frame) else OUTCOME["by"].format(text=text, names=best["name"])


def notices(records: list[dict], frame: pd.DataFrame, ladder: Ladder, words: dict) -> list[dict]:
    """What to know before reading on, the gravest first."""
    rows, exact = frame.to_dict("records"), ladder.workload.headline.noise == EXACT
    ok = [row for row in rows if row["status"] == "ok"]
    rounds = max((row["rounds"] for row in ok), default=0)
    failed = [row for row in rows if row["status"] not in ("ok", SKIPPED)]
    tried = max((record["round"] for record in records), default=0)
    names = [label(row["rung"], row["name"]) for row in failed]
    there = {row["rung"] for row in rows}
    absent = [label(n, ladder.title(n)) for n in range(ladder.top + 1) if n not in there]
    fewer = [label(r["rung"], r["name"]) for r in ok if r["rounds"] < max(rounds, tried)]
    found, listed = control(records, ladder.workload), words["and"].join
    kinds = [
        ("bad", words["failed"].format(names=listed(names)), failed),
        ("bad", words["voided"], found and found["differs"]),
        ("warn", words["once"], ok and rounds == 1 and not exact),
        ("warn", words["uneven"].format(names=listed(fewer)), fewer),
        ("calm", words["missing"].format(names=listed(absent)), absent),
        ("calm", words["dirty"], records[0].get("dirty")),
        ("calm", ladder.note, ladder.note),
    ]
    return [{"kind": kind, "text": text} for kind, text, holds in kinds if holds]


def label(number: int, name: str) -> str:
    """A rung's number and name; the reference has no number."""
    return f"{shown(number)} {name}".strip()


def address(number: int) -> str:
    """A rung's section, within the page."""
    return "reference" if number == REFERENCE else f"rung-{number}"


def figure(metric: Metric, value) -> dict:
    """A cell with a figure: as people read it, and as the CSV has it."""
    if not present(value):
        return {"text": "", "value": ""}
    return {"text": metric.text(value), "value": f"{value:.0f}" if whole(value) else f"{value:.6g}"}


def whole(value: float) -> bool:
    """Whole numbers are written in full, as in the CSV: counts of bytes, say."""
    return value % 1 == 0


def gain_cell(row: dict, kind: str, lang: str) -> dict:
    """A cell with a gain, or what it is less than."""
    value, verdict = row[kind], row["verdict" if kind == "x_prev" else "verdict_base"]
    if not present(value):
        return {"text": "", "value": ""}
    text = said(verdict, lang) if is_open(verdict) else gain(value, verdict)
    return {"text": text, "value": f"{value:.6g}", "kind": kind_of(value, verdict)}


def kind_of(value, verdict) -> str:
    """How a gain looks: up, down, or flat where none was told."""
    if not isinstance(verdict, str) or is_open(verdict):
        return "flat"
    return "up" if value > 1 else "down"


def table(records: list[dict], frame: pd.DataFrame, ladder: Ladder, words: dict) -> dict:
    """README's table: what most readers want to know."""
    workload, stair, lang = ladder.workload, is_stair(frame), words["lang"]
    headline, brief = workload.headline, workload.shown(BRIEF)
    published, rows = ladder.published(), []
    below = words["over_below" if stair else "over_base"]
    head = [headline.title, below, words["over_foot"]]
    head += [metric.title_on(device_type(records)) for metric in brief]
    head += [f"{title}: {below}" for title in published]
    for row in frame.to_dict("records"):
        cells = [figure(headline, row[headline.name]) | {"note": spread(row, headline.name)}]
        cells += [gain_cell(row, kind, lang) for kind in ("x_prev", "x_base")]
        cells += [figure(metric, row[metric.name]) for metric in brief]
        cells += [{"text": gains.get(row["rung"], ""), "value": ""} for gains in published.values()]
        rows.append(about(row, lang) | {"cells": cells})
    return {"head": head, "rows": rows}


def about(row: dict, lang: str) -> dict:
    """A row of a table, without its cells."""
    state = "" if row["status"] == "ok" else said(why(row), lang)
    place = {"number": shown(row["rung"]), "name": row["name"], "address": address(row["rung"])}
    return place | {"ok": row["status"] == "ok", "status": row["status"], "why": state}


def full_table(records: list[dict], frame: pd.DataFrame, workload: Workload) -> dict:
    """Every metric that was measured in some rung and has not been shown."""
    metrics = [m for m in workload.shown(PAGE) if frame[m.name].notna().any()]
    rows = [row for row in frame.to_dict("records") if row["status"] == "ok"]
    cells = [[figure(metric, row[metric.name]) for metric in metrics] for row in rows]
    head = [metric.title_on(device_type(records)) for metric in metrics]
    return {
        "head": head,
        "rows": [about(r, "en") | {"cells": c} for r, c in zip(rows, cells, strict=True)],
    }


def bars(frame: pd.DataFrame, headline: Metric, lang: str) -> list[dict]:
    """The picture for narrow screens: one bar a rung, its width in per cent of the widest."""
    rows = frame.to_dict("records")
    widest = longest(row[headline.name] for row in rows)
    found = []
    for row in rows:
        value = row[headline.name] if present(row[headline.name]) else 0.0
        said_gain = bound(row["verdict"]) if isinstance(row["verdict"], str) else ""
        if present(row["x_prev"]) and not is_open(row["verdict"]):
            said_gain = gain(row["x_prev"], row["verdict"])
        width = width_of(value, widest)
        one = {"width": width, "text": headline.text(row[headline.name], ""), "gain": said_gain}
        found.append(about(row, lang) | one)
    return found


def longest(values: Iterable) -> float:
    """The largest finite one, for bars: what is infinite is drawn as long."""
    return max((v for v in values if present(v) and math.isfinite(v)), default=1.0) or 1.0


def width_of(value: float, widest: float) -> str:
    """In per cent."""
    return f"{100 * min(max(value, 0.0), widest) / widest:.2f}"


def foot(records: list[dict], frame: pd.DataFrame, workload: Workload) -> dict | None:
    """The row that gains over the baseline are over; None where it was not measured."""
    rows = Gains(records, workload.headline).of(LADDER)
    number = next((n for n, of_rung in rows.items() if not stack(of_rung[-1])), None)
    measured = frame[frame["status"] == "ok"].to_dict("records")
    return next((row for row in measured if row["rung"] == number), None)

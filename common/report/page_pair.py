"""Two runs of a ladder side by side on a page: what differs, then both gains of every rung."""

from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.metric import EXACT
from common.engine.stats import UNJUDGED, is_open
from common.engine.workload import Workload
from common.report.comparison import Pair, compare, differences, pair_up
from common.report.frame import to_frame
from common.report.page_facts import about, figure, gain_cell, kind_of
from common.report.page_lesson import shorter
from common.report.page_words import said
from common.report.tables import cell, is_stair, spread

NAMES = "AB"
NOTHING = {"text": "", "value": ""}


def both_view(a: list[dict], b: list[dict], ladder: Ladder, words: dict) -> dict:
    """What the template shows of two runs together. Raises UserError if of two ladders."""
    workload, pairs = ladder.workload, pair_up(a, b, ladder.workload)
    frames = [to_frame(run, workload) for run in (a, b)]
    stair = all(map(is_stair, frames))
    found, reason = ratios(a, b, workload)
    below = words["below" if stair else "base"]
    legend = words["beside_plain"].format(below=below)
    if found and workload.headline.noise != EXACT:
        whole = f"{next(iter(found.values()))['whole']:.2f}"
        legend = words["beside_legend"].format(below=below, whole=whole)
    if found and len(found) < len(pairs):
        legend = f"{legend} {words['apart']}"
    gained = words["over_below" if stair else "over_base"]
    head = [f"{n}: {title}" for n in NAMES for title in (workload.headline.title, gained)]
    rows = [{row["rung"]: row for row in frame.to_dict("records")} for frame in frames]
    given = [
        tuple("–" if value is None else shorter(value) for value in fact)
        for fact in differences(a, b, workload)
    ]
    return {
        "differences": given,
        "reason": words["unlike"].format(reason=reason) if reason else "",
        "legend": legend,
        "head": [*head, words["ratio"], words["relative"]] if found else head,
        "rows": [line(pair, rows, found, workload, words) for pair in pairs],
    }


def ratios(a: list[dict], b: list[dict], workload: Workload) -> tuple[dict[int, dict], str]:
    """The comparison's rows by rung, or why the runs are not compared."""
    try:
        frame = compare(a, b, workload)
    except UserError as error:
        return {}, str(error)
    return {row["rung"]: row for row in frame.to_dict("records")}, ""


def line(pair: Pair, rows: list[dict], found: dict, workload: Workload, words: dict) -> dict:
    """A rung's row: two cells of each run, then the ratio of the two."""
    both = [of.get(pair.number) for of in rows]
    cells = [one for row in both for one in of_one(row, workload, words)]
    cells += ratio_cells(found.get(pair.number), words["lang"]) if found else []
    place = about(next(filter(None, both)), words["lang"])
    return place | {"name": pair.name, "ok": True, "address": "", "cells": cells}


def of_one(row: dict | None, workload: Workload, words: dict) -> list[dict]:
    """The headline and the gain, or why there is none, in the place of both."""
    if row is None or row["status"] != "ok":
        text = about(row, words["lang"])["why"] if row else words["not_measured"]
        return [NOTHING | {"text": text, "kind": "why", "span": 2}]
    name = workload.headline.name
    return [
        figure(workload.headline, row[name]) | {"note": spread(row, name)},
        gain_cell(row, "x_prev", words["lang"]),
    ]


def ratio_cells(row: dict | None, lang: str) -> list[dict]:
    """The ratio of two runs at a rung, and what is left of it beside the runs' own."""
    if row is None:
        return [NOTHING | {"text": "–", "kind": "flat"}] * 2
    ends = [cell(row[f"relative_{end}"], ".2f") for end in ("low", "high")]
    interval = f"{ends[0]} – {ends[1]}" if all(ends) and ends[0] != ends[1] else ""
    verdict = row["verdict"]
    text = f"{row['relative']:.2f}"
    if verdict != UNJUDGED:
        text = said(verdict, lang) if is_open(verdict) else f"{text}: {said(verdict, lang)}"
    kind = kind_of(row["relative"], verdict)
    return [
        {"text": f"{row['ratio']:.2f}", "value": f"{row['ratio']:.6g}"},
        {"text": text, "value": f"{row['relative']:.6g}", "kind": kind, "note": interval},
    ]

"""What to turn on: of ladders whose rungs have `lines` that people write in code of their own.

A rung is recommended where its own gain was told. One that saves something else that its workload
says a rung may be for (`Metric.spared`) is named apart, for those who need that.
"""

from dataclasses import dataclass
from itertools import chain, groupby

from common.engine.contract import Numerics
from common.engine.ladder import Ladder
from common.engine.plan import ALONE, LADDER, WITHOUT
from common.engine.workload import Workload
from common.report.attribution import KINDS, describe, to_attribution
from common.report.ending import missing, sign
from common.report.frame import to_frame
from common.report.page_words import EN, said
from common.report.tables import gain, markdown_table

SAVES = 0.05  # of what is spared: less is not named
ON, SAVING, OPEN, OFF = "on", "saving", "open", "off"  # in this order
KIND = {kind: EN[f"advice_{kind}"] for kind in (ON, SAVING, OPEN, OFF)}
SERIES = {ALONE: "alone", WITHOUT: "left_out"}
DOES = {  # to the numbers
    Numerics.EXACT: "bit for bit the same",
    Numerics.ROUNDING: "rounded in another order",
    Numerics.LOWER_PRECISION: "fewer digits: watch your results",
    Numerics.DIFFERENT_WORK: "another computation: watch your results",
}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One rung, and what is to be done with it."""

    kind: str
    number: int
    name: str
    base: int  # the rung that it was measured on top of
    gain: str  # over that
    ratio: float
    saved: tuple[str, ...]  # "memory, GiB -30%"
    numerics: Numerics
    lines: tuple[str, ...]


def recommends(ladder: Ladder) -> bool:
    return any(rung.lines for rung in ladder.rungs)


def advice(records: list[dict], ladder: Ladder) -> list[Advice]:
    """Of each rung that was measured; those to turn on first, of these the greatest gain first."""
    rows = {row["rung"]: row for row in to_frame(records, ladder.workload).to_dict("records")}
    good = [r for r in records if r["status"] == "ok" and r["series"] == LADDER]
    last, found = {record["rung"]: record for record in good}, []
    on = records[0]["machine"]["device_type"]
    for rung in ladder.rungs:
        record, row = last.get(rung.number), rows.get(rung.number)
        if rung.lines is None or record is None or missing(row["x_prev"]):
            continue
        base = record["applied"][-2] if len(record["applied"]) > 1 else 0
        saved = savings(row, rows.get(base, {}), ladder.workload)
        found.append(
            Advice(
                kind=kind_of(row, saved),
                number=rung.number,
                name=row["name"],
                base=base,
                gain=gain(row["x_prev"], row["verdict"]),
                ratio=row["x_prev"],
                saved=tuple(saved),
                numerics=rung.numerics,
                lines=tuple(rung.lines(on, ladder.workload.recall(record["recipe"]))),
            )
        )
    return sorted(found, key=lambda one: (list(KIND).index(one.kind), -one.ratio))


def kind_of(row: dict, saved: list[str]) -> str:
    if sign(row) > 0:
        return ON
    return SAVING if saved else OFF if sign(row) < 0 else OPEN


def savings(row: dict, below: dict, workload: Workload) -> list[str]:
    """Of what a rung may be for beside the headline, what it left less of."""
    found = []
    for metric in (metric for metric in workload.metrics if metric.spared):
        own, before = row.get(metric.name), below.get(metric.name)
        if not missing(own) and not missing(before) and own < (1 - SAVES) * before:
            found.append(f"{metric.title} {own / before - 1:+.0%}")
    return found


def recommendation_text(records: list[dict], ladder: Ladder) -> list[str]:
    """For a terminal: each rung, and below it the lines of those that may be turned on."""
    text = []
    for kind, found in groupby(advice(records, ladder), lambda one: one.kind):
        text += ["", f"{KIND[kind]}:"]
        for one in found:
            branches = ladder.rung(one.number).base != one.number - 1
            branch = f" (on {one.base})" if branches else ""
            text.append("; ".join([f"{one.gain:>8}  {one.number} {one.name}{branch}", *one.saved]))
            if kind in (ON, SAVING):
                text.append(f"{'':10}to the numbers: {DOES[one.numerics]}")
                text += [f"{'':10}| {line}" for line in one.lines]
    return text


def recommendation_view(records: list[dict], ladder: Ladder, words: dict) -> list[dict]:
    """For the template of the page."""
    view = []
    for kind, group in groupby(advice(records, ladder), lambda one: one.kind):
        rungs = []
        for one in group:
            does = said(one.numerics.value, words["lang"])
            more = [*one.saved, words["to_numbers"].format(does=does)]
            shown = kind in (ON, SAVING)
            text = f"{one.gain} {one.name}" + (f" ({', '.join(more)})" if shown else "")
            rungs.append({"text": text, "lines": "\n".join(one.lines) if shown else ""})
        view.append({"title": words[f"advice_{kind}"], "rungs": rungs})
    return view


def in_words(one: Advice, row: dict, kind: str) -> str:
    """A gain of one kind; one in order that was not told reads as in the ladder's own table."""
    if missing(row[kind]):
        return ""
    untold = kind == "in_order" and one.gain.startswith("<")
    return one.gain if untold else describe(row, kind)


def recommendation_markdown(records: list[dict], ladder: Ladder) -> str:
    """As a page of its own, with the gains alone and left out where they were measured."""
    workload = ladder.workload
    gains = {row["rung"]: row for row in to_attribution(records, workload).to_dict("records")}
    measured = {"in_order"} | {SERIES[r["series"]] for r in records if r["series"] in SERIES}
    kinds = [kind for kind in KINDS if kind in measured]
    head = {"#": "--:", "rung": ":--", "on": "--:"} | {KINDS[kind]: "--:" for kind in kinds}
    head |= {"saves": ":--", "to the numbers": ":--"}
    text = ["# What to turn on\n", f"{workload.describe(records)}\n"]
    for kind, group in groupby(advice(records, ladder), lambda one: one.kind):
        found = list(group)
        rows = [
            [
                *(str(one.number), one.name, str(one.base)),
                *(in_words(one, gains[one.number], kind_of_gain) for kind_of_gain in kinds),
                *(", ".join(one.saved), DOES[one.numerics]),
            ]
            for one in found
        ]
        text += [f"## {KIND[kind]}\n", markdown_table(head, rows) + "\n"]
        if kind in (ON, SAVING):
            lines = ((f"# {one.name}", *one.lines) for one in found)
            text.append("\n".join(["```", *chain.from_iterable(lines), "```\n"]))
    return "\n".join(text)

"""What to turn on: the rungs of a ladder whose code people write themselves, and their lines.

A ladder has a recommendation where its rungs have `lines`. A rung is recommended where its own gain
was told. What only saves something that another metric counts is named apart.
"""

from dataclasses import dataclass
from itertools import chain

from common.engine.contract import Numerics
from common.engine.ladder import Ladder
from common.engine.stats import is_open
from common.engine.workload import Workload
from common.report.attribution import describe, to_attribution
from common.report.ending import FAINT, missing
from common.report.frame import to_frame
from common.report.tables import gain, markdown_table

SAVES = 0.05  # of what a metric counts: less is not named
DOES = {  # to the numbers
    Numerics.EXACT: "nothing: bit for bit the same",
    Numerics.ROUNDING: "rounding in another order",
    Numerics.LOWER_PRECISION: "fewer digits: watch the loss",
    Numerics.DIFFERENT_WORK: "another computation: compare results, not rates",
}
ON, SAVING, NOT_TOLD, OFF = (
    "Turn on",
    "Only if memory is short",
    "No gain was told here",
    "Leave off: worse here",
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One rung, and what is to be done with it."""

    kind: str  # ON, SAVING, NOT_TOLD, OFF
    number: int
    name: str
    gain: str  # over what it adds to
    ratio: float
    saved: tuple[str, ...]  # "tensors of a step, MiB -30%"
    numbers: str  # what it may do to them
    lines: tuple[str, ...]


def advice(records: list[dict], ladder: Ladder) -> list[Advice]:
    """Of each rung that was measured, those to turn on first, the greatest gain first."""
    rows = {row["rung"]: row for row in to_frame(records, ladder.workload).to_dict("records")}
    last = {r["rung"]: r for r in records if r["status"] == "ok" and r["series"] == "ladder"}
    found = []
    for rung in ladder.rungs:
        row = rows.get(rung.number)
        if rung.lines is None or row is None or rung.number not in last or missing(row["x_prev"]):
            continue
        recipe = ladder.workload.recall(last[rung.number]["recipe"])
        below = rows.get(below_of(last[rung.number]), {})
        saved = savings(row, below, ladder.workload)
        found.append(
            Advice(
                kind=kind_of(row, saved),
                number=rung.number,
                name=row["name"],
                gain=gain(row["x_prev"], row["verdict"]),
                ratio=row["x_prev"],
                saved=tuple(saved),
                numbers=DOES[rung.numerics],
                lines=tuple(rung.lines(recipe)),
            )
        )
    order = (ON, SAVING, NOT_TOLD, OFF)
    return sorted(found, key=lambda one: (order.index(one.kind), -one.ratio))


def below_of(record: dict) -> int:
    """The rung whose stack this one adds to."""
    return record["applied"][-2] if len(record["applied"]) > 1 else 0


def kind_of(row: dict, saved: list[str]) -> str:
    told = not is_open(row["verdict"]) and abs(row["x_prev"] - 1) > FAINT
    if told and row["x_prev"] > 1:
        return ON
    if saved:
        return SAVING
    return OFF if told else NOT_TOLD


def savings(row: dict, below: dict, workload: Workload) -> list[str]:
    """What else a rung may be for, of which it left less."""
    found = []
    for metric in (metric for metric in workload.metrics if metric.spared):
        own, before = row.get(metric.name), below.get(metric.name)
        if not missing(own) and not missing(before) and own < (1 - SAVES) * before:
            found.append(f"{metric.title} {own / before - 1:+.0%}")
    return found


def recommendation_text(records: list[dict], ladder: Ladder) -> list[str]:
    """For a terminal: a line for each rung, with its lines below it."""
    found, said = advice(records, ladder), []
    for kind in (ON, SAVING, NOT_TOLD, OFF):
        of_kind = [one for one in found if one.kind == kind]
        if not of_kind:
            continue
        said += ["", f"{kind}:"]
        for one in of_kind:
            more = f"; {', '.join(one.saved)}" if one.saved else ""
            said.append(f"  {one.gain:>6}  {one.name} (rung {one.number}{more})")
            if kind in (ON, SAVING):
                said.append(f"{'':10}to the numbers: {one.numbers}")
                said += [f"{'':10}| {line}" for line in one.lines]
    return said


def recommendation_markdown(records: list[dict], ladder: Ladder) -> str:
    """The same as a page, with the gains alone and left out where they were measured."""
    found, workload = advice(records, ladder), ladder.workload
    gains = {row["rung"]: row for row in to_attribution(records, workload).to_dict("records")}
    head = {"rung": ":--", "in order": "--:", "alone": "--:", "left out": "--:"}
    head |= {"saves": ":--", "to the numbers": ":--"}
    text = [f"# {workload.describe(records)}\n"]
    for kind in (ON, SAVING, NOT_TOLD, OFF):
        of_kind = [one for one in found if one.kind == kind]
        if not of_kind:
            continue
        rows = [
            [
                one.name,
                *(describe(gains[one.number], series) for series in ("in_order", "alone")),
                describe(gains[one.number], "left_out"),
                ", ".join(one.saved),
                one.numbers,
            ]
            for one in of_kind
        ]
        text += [f"## {kind}\n", markdown_table(head, rows) + "\n"]
        if kind in (ON, SAVING):
            lines = [(f"# {one.name}", *one.lines, "") for one in of_kind]
            text.append("\n".join(["```python", *chain.from_iterable(lines)]) + "```\n")
    return "\n".join(text)

"""Findings as text of at most 80 columns, as a line, and as JSON."""

import textwrap
from dataclasses import asdict

from common.diagnose.finding import ALARM, NOTE, UNKNOWN, Finding, times
from common.diagnose.readings import Readings
from common.diagnose.rules import data, device, diagnose, recommended


def to_text(readings: Readings) -> str:
    """All that was seen: a table, the alarms in sentences, and one recommendation."""
    findings = diagnose(readings)
    rows = [f"{'':<26}{'measured':>13}  limit", *map(row, findings)]
    told = [one.sentence for one in findings if one.verdict in (ALARM, NOTE)]
    paragraphs = [watched(readings), *told, verdict(readings, findings)]
    first, *rest = (textwrap.fill(text, 80, break_on_hyphens=False) for text in paragraphs)
    return "\n".join([first, "", *rows, "", *rest])


def watched(r: Readings) -> str:
    """What was looked at, in one line."""
    said = ["Watched nothing" if r.seconds is None else f"Watched {r.seconds:.1f} s"]
    if r.steps is not None:
        said.append(f"{r.steps:,} steps")
    if r.processes > 1:
        said.append(f"{r.processes} training processes, of which the one that waits most")
    if r.cores is not None:
        said.append(f"{r.cores} {'core' if r.cores == 1 else 'cores'}")
    if r.loader_workers is not None:
        said.append(f"a DataLoader with num_workers={r.loader_workers}")
    if r.batch_size is not None:
        said.append(f"batch {r.batch_size}")
    return ", ".join(said)


def row(one: Finding) -> str:
    if one.verdict == UNKNOWN:
        return f"{one.title:<26}{UNKNOWN:>13}"
    share = one.name not in ("workers", "memory")
    value, limit = (f"{x:.1%}" if share else f"{x:,.0f}" for x in (one.value, one.limit))
    bound = "at least" if one.least else "at most"
    limit = f"{one.limit:.0%}" if share else limit
    mark = {ALARM: "ALARM", NOTE: "note"}.get(one.verdict, "")
    return f"{one.title:<26}{value:>13}  {bound + ' ' + limit:<16}{mark}".rstrip()


def verdict(r: Readings, findings: list[Finding]) -> str:
    """The recommendation, or why there is none."""
    best = recommended(findings)
    if best:
        return recommendation(best)
    if any(one.verdict == ALARM for one in findings):
        more = "" if r.inside else " Started with -- COMMAND, more of the training is measured."
        return f"No cause was seen.{more}"
    if all(one.verdict == UNKNOWN for one in findings):
        return "Nothing could be measured."
    return "No alarm."


def recommendation(one: Finding) -> str:
    """What to do, with its reason and what to expect."""
    said = f"Recommended: {one.advice}."
    if one.gain is None:
        return f"{said} How much faster it makes the training is not known."
    return f"{said} Expected: {times(one.gain)} as fast, since {one.reason}."


def in_a_line(readings: Readings) -> str:
    """For the end of a training that watched itself: who waited, or that nobody did.

    Empty where neither the device nor the wait for data could be measured.
    """
    alarms = [one for one in diagnose(readings) if one.verdict == ALARM]
    if best := recommended(alarms):
        seen = alarms[0] if alarms[0].name == "device" else best
        return f"{seen.sentence} {recommendation(best)}"
    if alarms:
        return alarms[0].sentence
    known = [one for one in (data(readings), device(readings)) if one.value is not None]
    return f"Nobody waits: {' '.join(one.sentence for one in known)}" if known else ""


def to_json(readings: Readings, exit_status: int) -> dict:
    """For scripts. What was not measured is null."""
    findings = diagnose(readings)
    best = recommended(findings)
    return {
        "readings": asdict(readings),
        "findings": [one.to_json() for one in findings],
        "recommended": best and {"finding": best.name, "advice": best.advice, "gain": best.gain},
        "exit_status": exit_status,
    }

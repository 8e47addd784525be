"""What a page says of a rung: its lesson, its change of the recipe, its check, its file."""

import inspect
import re
from pathlib import Path
from types import ModuleType

from common.engine.ladder import Ladder, Rung
from common.engine.machine import PROJECT
from common.engine.plan import LADDER
from common.engine.rungs import stack

LABEL = re.compile(r"([A-Z][a-z]+(?: [a-z]+){0,2}): +(\S.*)")  # a paragraph's: "When not: ..."
LONGEST = 2000  # characters of a text from the records: a page stays small whatever they hold


def shorter(value) -> str:
    """A value of the records as text, at most LONGEST characters."""
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def lesson(doc: str) -> list[tuple[str, str]]:
    """A docstring's paragraphs with their labels, without the title; no label: ""."""
    parts: list[tuple[str, str]] = []
    for line in inspect.cleandoc(doc).splitlines()[1:]:
        if found := LABEL.match(line):
            parts.append((found[1], found[2]))
        elif line.strip():
            name, text = parts.pop() if parts else ("", "")
            parts.append((name, f"{text} {line.strip()}".strip()))
    return parts


def rung_of(ladder: Ladder, record: dict) -> Rung | None:
    """The rung that made a record, by its title, for numbers change with the ladder; or None."""
    named = [rung for rung in ladder.rungs if rung.title == record["name"]]
    same = [rung for rung in named if rung.number == record["rung"]]
    return next(iter(same + named), None) if record["rung"] > 0 else None


def source(module: ModuleType) -> dict | None:
    """A module's file: its path within the project and its text; None where it has none there."""
    path = Path(vars(module).get("__file__") or "/").resolve()
    if not path.is_file() or not path.is_relative_to(PROJECT):
        return None
    return {"path": path.relative_to(PROJECT).as_posix(), "text": path.read_text("utf-8")}


def by_stack(records: list[dict]) -> dict[tuple, list[dict]]:
    """The measured records of the ladder by what was applied in them."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        if record["series"] == LADDER and record.get("recipe"):
            found.setdefault(stack(record), []).append(record)
    return found


def beneath(record: dict, stacks: dict[tuple, list[dict]]) -> list[dict]:
    """The records of what a rung was added to, or of the nearest below it that was measured."""
    applied = stack(record)
    lengths = range(len(applied) - 1, -1, -1)
    return next((stacks[applied[:n]] for n in lengths if applied[:n] in stacks), [])


def changes(before: dict, after: dict) -> list[dict]:
    """Every field of two recipes that is not the same: what it lost, and what it has instead."""
    found = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new and (name in before) == (name in after):
            continue
        lost, won = _parts(before, name), _parts(after, name)
        both = [part for part in lost if part in won]
        lost, won = ([p for p in parts if p not in both] for parts in (lost, won))
        found.append({"field": shorter(name), "lost": lost, "won": won})
    return found


def _parts(recipe: dict, name: str) -> list[str]:
    """A field's value as lines: one for each member of a list."""
    if name not in recipe:
        return []
    value = recipe[name]
    return [shorter(part) for part in (value if isinstance(value, list) else [value])]


def gate(found: dict, text: str) -> str:
    """The equivalence check in words; empty where there was none.

    A workload may give the worst error a name of its own, "worst_..._error", with the part of the
    answer that has it in "worst_...".
    """
    own = (key for key in found if key.startswith("worst_") and key.endswith("_error"))
    key = "error" if "error" in found else next(own, None)
    if key is None or found.get("limit") is None:
        return ""
    where = found.get("where" if key == "error" else key.removesuffix("_error"))
    formats = ", ".join(map(str, found.get("formats") or ()))
    said = text.format(error=f"{found[key]:.1e}", limit=f"{found['limit']:.0e}")
    return shorter("; ".join(filter(None, (said, where, formats))))

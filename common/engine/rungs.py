"""What a record says of its rung: its number, what it stands on, and what was seen to act."""

from common.engine.contract import IN_WORDS

REFERENCE = -1  # in rung 0's place where a ladder stands on another: the recipe below its foot


def shown(number: int) -> str:
    """A rung's number for people; the reference has none."""
    return "" if number == REFERENCE else str(number)


def called(row: dict) -> str:
    """How a note names the rung of a row or a record."""
    return row["name"] if row["rung"] == REFERENCE else f"rung {row['rung']}"


def why(row: dict) -> str:
    """Why a row or a record has no figures: "does not apply: reason"."""
    return f"{IN_WORDS.get(row['status'], row['status'])}: {row['reason']}"


def stack(record: dict) -> tuple:
    """What the record's recipe has on top of the plain one, those of another ladder by name."""
    return (*record.get("under", ()), *record["applied"])


def proof(record: dict) -> str:
    """What the rung's probe saw; of a foot, which rungs of the other ladder were seen to act."""
    seen = record["measurement"]["in_effect"]
    under = [name.split() for name in record.get("under", ()) if name in seen]
    if record["rung"] or not under:
        return seen.get(str(record["rung"]), "")
    return f"{under[0][0]} {', '.join(number for _, number in under)}"

"""How each ladder of a run of several stands; kept in a file beside their folders."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.engine.errors import UserError
from common.engine.records import WRONG, write_atomically

FILE = "all.json"
DONE, FAILED, REFUSED, LEFT_OUT = "done", "failed", "refused", "left out"
CUT, INTERRUPTED, WAITING = "cut", "interrupted", "not begun"
STATUSES = (DONE, FAILED, REFUSED, LEFT_OUT, CUT, INTERRUPTED, WAITING)


@dataclass(frozen=True, kw_only=True)
class Standing:
    status: str = WAITING
    reason: str = ""  # why it failed, was refused, or is left out
    seconds: float = 0.0  # spent on it so far

    def __post_init__(self) -> None:
        if self.status not in STATUSES or not isinstance(self.reason, str):
            raise ValueError(f"a ladder that is {self.status!r}: {self.reason!r}")
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"{self.seconds} seconds")


@dataclass(kw_only=True)
class Standings:
    """Of the ladders of one run, by name, in the order in which they are climbed."""

    folder: Path
    facts: dict  # what must be the same for whoever goes on: options, machine, versions, commit
    ladders: dict[str, Standing] = field(default_factory=dict)

    @classmethod
    def there(cls, folder: Path) -> bool:
        """Whether the folder is of several ladders."""
        return os.path.lexists(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Standings":
        """Raises UserError if the folder's file is none of ours."""
        path = folder / FILE
        try:
            kept = json.loads(path.read_text(encoding="utf-8-sig"))
            ladders = {name: Standing(**stands) for name, stands in kept["ladders"].items()}
            return cls(folder=folder, facts=dict(kept["facts"]), ladders=ladders)
        except (OSError, *WRONG) as error:
            raise UserError(f"{path}: cannot be read as a run of all ladders ({error})") from error

    def put(self, name: str, standing: Standing) -> None:
        """Write down how a ladder stands by now."""
        self.ladders[name] = standing
        kept = {
            "facts": self.facts,
            "ladders": {name: asdict(stands) for name, stands in self.ladders.items()},
        }
        write_atomically(self.folder / FILE, json.dumps(kept, indent=1).encode())

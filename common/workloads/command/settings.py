"""How a command is measured."""

from dataclasses import dataclass

from common.engine import session
from common.engine.machine import without_folders


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    """The same for every rung of a run. A step is a line that matches."""

    command: str = ""  # as typed
    line: str = ""  # a regular expression
    patience_s: float = 60.0  # for each line
    sha256: str = ""  # of it and of the files that it names: of another script nothing is kept

    @property
    def needed(self) -> int:
        """Lines."""
        return self.warmup + self.steps

    def recorded(self) -> dict:
        return self.to_json() | {"command": without_folders(self.command)}

"""How a command is measured."""

from dataclasses import dataclass

from common.engine import session


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    """The same for every rung of a run. A step is a line that matches."""

    command: str = ""  # as typed
    line: str = ""  # a regular expression
    patience_s: float = 60.0  # for each line
    sha256: str = ""  # of the files that the command names: of another script nothing is kept

    @property
    def needed(self) -> int:
        """Lines."""
        return self.warmup + self.steps

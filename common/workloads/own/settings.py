"""How a user's model is measured."""

from dataclasses import dataclass
from pathlib import Path

from common.engine import session


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    """The same for every rung of a run. The file is what the user named, and no other is run."""

    file: str  # absolute; in a record its name only, since `sha256` tells which it is
    module: str = ""  # its dotted name, where it was named so
    sha256: str = ""  # of the file: another one is another run

    def recorded(self) -> dict:
        return self.to_json() | {"file": Path(self.file).name}

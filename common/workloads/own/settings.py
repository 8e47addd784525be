"""How a user's model is measured."""

from dataclasses import dataclass

from common.engine import session


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    """The same for every rung of a run. The file is what the user named, and no other is run."""

    file: str  # absolute
    module: str = ""  # its dotted name, where it was named so
    sha256: str = ""  # of the file: another one is another run

"""The lines of a program's output that --line names, and what numbers stand in them."""

import re
from typing import NamedTuple

from common.engine.errors import UserError
from common.engine.options import number

LOSS = "loss"  # the group that names a loss: (?P<loss>...)
NAMES = "one group at most, around a rate, beside (?P<loss>...)"


class Seen(NamedTuple):
    """A line that matched."""

    at: float  # when it came: seconds of the monotonic clock
    rate: float | None  # the number in its group; None where the pattern has none
    loss: float | None


class Line:
    """A regular expression, searched for in each line. Raises UserError where it is none."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        try:
            self.compiled = re.compile(pattern)
        except re.error as error:
            raise UserError(f"--line {pattern}: no regular expression ({error})") from error
        self.loss = self.compiled.groupindex.get(LOSS)
        rates = [n for n in range(1, self.compiled.groups + 1) if n != self.loss]
        if len(rates) > 1:
            raise UserError(f"--line {pattern}: has {len(rates)} groups; allowed: {NAMES}")
        self.rate = rates[0] if rates else None

    def find(self, text: str, at: float) -> Seen | None:
        """What a line says, if it matches. Raises UserError where a group holds no number."""
        if not (match := self.compiled.search(text)):
            return None
        groups = (self.rate, self.loss)
        rate, loss = (None if group is None else self.number(match[group]) for group in groups)
        if rate is not None and rate <= 0:
            raise UserError(f"--line {self.pattern}: a rate must be above 0; {text!r} has {rate:g}")
        return Seen(at, rate, loss)

    def number(self, text: str | None) -> float:
        """With commas between thousands, too."""
        value = number((text or "").replace(",", "").strip())
        if value != value:  # NaN
            raise UserError(f"--line {self.pattern}: a group holds {text!r}, which is no number")
        return value

"""How long a climb in rounds will still take: from what its measurements took so far."""

from collections.abc import Hashable, Sequence
from statistics import fmean

# A rung's first process also checks it, and compiles into an empty cache: as a share of its
# seconds, what later ones take, until some of them are seen. On an H200 it came to 0.6.
LATER = 0.7


class TimeLeft:
    """Of a plan's measurements, in their order: (round, what)."""

    def __init__(self, plan: Sequence[tuple[int, Hashable]]) -> None:
        self.ahead, self.first_round = list(plan), min((turn for turn, _ in plan), default=1)
        self.first: dict[Hashable, float] = {}  # seconds of each in the first round
        self.later: dict[Hashable, float] = {}  # and the last of them since

    def end(self, what: Hashable, seconds: float | None) -> None:
        """Its next measurement took so long; None: it is not measured, nor will it be again."""
        rest = [one for one in self.ahead if one[1] == what]
        for one in rest if seconds is None else rest[:1]:
            self.ahead.remove(one)
        if rest and seconds is not None:
            (self.first if rest[0][0] == self.first_round else self.later)[what] = seconds

    def seconds(self, elapsed: float = 0.0) -> float | None:
        """Of all that is ahead; None until something has been measured, and at the end.

        `elapsed`: seconds since the one at work began.
        """
        if not self.first or not self.ahead:
            return None
        usual = fmean(self.first.values())
        seen = [(s, self.first[what]) for what, s in self.later.items() if what in self.first]
        share = (LATER * usual + sum(now for now, _ in seen)) / (usual + sum(s for _, s in seen))
        again = {what: share * s for what, s in self.first.items()} | self.later
        each = [
            self.first.get(what, usual)
            if turn == self.first_round
            else again.get(what, share * usual)
            for turn, what in self.ahead
        ]
        return sum(each) - min(elapsed, each[0])

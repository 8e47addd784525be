"""A finding: one thing that was looked at, and what follows from it."""

from dataclasses import asdict, dataclass

OK, NOTE, ALARM, UNKNOWN = "ok", "note", "alarm", "not measured"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured, what is allowed, and what to do about it.

    `gain`: how many times as fast the training could be at most, by Amdahl's law: if a share w of
    the time goes, 1 / (1 - w). Source: G. M. Amdahl, AFIPS Conference Proceedings 30 (1967). None:
    it makes nothing faster, or how much is not known.
    """

    name: str
    title: str  # with the unit of `value`, unless that is a share
    verdict: str  # OK, NOTE, ALARM, UNKNOWN
    value: float | None  # None: not measured
    limit: float
    sentence: str  # what was seen; of what was not measured, why
    least: bool = False  # whether `limit` is the least that is allowed, not the most
    advice: str = ""  # what to do; empty where there is nothing to do, or the cause is not known
    gain: float | None = None
    reason: str = ""  # of the gain

    def to_json(self) -> dict:
        return asdict(self)


def amdahl(share: float) -> float:
    """How many times as fast it is without so much of the time, 0 to 1; at most 1000 times."""
    return 1 / max(1 - share, 0.001)


def times(gain: float) -> str:
    """A gain in a sentence."""
    return f"at most {gain:.1f} times" if gain < 10 else f"at most {gain:.0f} times"

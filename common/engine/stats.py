"""How sure a figure is: intervals that know turns and processes, and verdicts a noisy machine
cannot fake.

A figure is known from a few processes (generations, or rounds). Each has luck of its own: where its
memory lies, what the machine was doing. Within a process, the turns tell how exactly its value is
known; between processes, what is left over is luck. Two or three processes of one rung say little
of its luck, so the other rungs of the run speak for it as well, but only as much as a few more
processes would: one rung may be far noisier than the rest.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, variance
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
CONFIDENCE = 0.95
TRIMMED = 0.2  # of the turns, at each end: what the machine does meanwhile makes some far too long
OTHERS = 2  # as many processes more than its own do the other rungs' speak for a rung's luck
FASTER, SLOWER, UNCHANGED, UNJUDGED = "faster", "slower", "less than", "not judged"
SAME = "the same"  # of what is counted


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process says, or a pair of them: a logarithm, and how exactly it is known."""

    value: float
    error: float | None = None  # a standard error from its turns; None: not known from within
    dof: float = math.inf  # degrees of freedom of `error`
    beyond: int = 0  # the true value is higher (1) or lower (-1), nobody knows how far


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A logarithm and half the width of its interval; NaN where noise is not known."""

    value: float
    half: float
    beyond: frozenset[int] = frozenset()  # in which directions parts of it are; see Part

    @property
    def low(self) -> float:
        return -math.inf if -1 in self.beyond else self.value - self.half

    @property
    def high(self) -> float:
        return math.inf if 1 in self.beyond else self.value + self.half

    @property
    def told(self) -> bool:
        """Whether it is above 0, or below; of NaN neither."""
        return self.low > 0 or self.high < 0


def from_turns(values: Sequence[float]) -> Part:
    """One value per turn, as their trimmed mean.

    Source: Tukey, McLaughlin 1963, Sankhya A 25: the standard error of a trimmed mean, from the
    values with the trimmed ones drawn in to the nearest that are kept.
    """
    ordered = np.sort(np.asarray(values, float))
    cut = int(TRIMMED * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    if len(kept) < 2:
        return Part(value=float(np.median(ordered)))
    drawn_in = np.clip(ordered, kept[0], kept[-1])
    spread = ((drawn_in - drawn_in.mean()) ** 2).sum()
    dof = len(kept) - 1
    return Part(value=float(kept.mean()), error=math.sqrt(spread / (len(kept) * dof)), dof=dof)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over processes; the variance is that of the mean, NaN where noise is not known."""

    value: float
    variance: float
    dof: float

    def __sub__(self, other: "Mean") -> "Mean":
        """Of two that are independent."""
        return _sum(self.value - other.value, [self, other])

    def estimate(self, confidence: float) -> Estimate:
        half = math.sqrt(self.variance)
        return Estimate(value=self.value, half=half and half * student_t(confidence, self.dof))


def _sum(value: float, terms: Sequence[Mean]) -> Mean:
    """Degrees of freedom of a sum: Satterthwaite 1946, doi.org/10.2307/3002019."""
    variance = sum(term.variance for term in terms)
    doubt = sum(term.variance**2 / term.dof for term in terms)
    return Mean(value=value, variance=variance, dof=variance**2 / doubt if doubt else math.inf)


def means(groups: Mapping[K, Sequence[Part]]) -> dict[K, Mean]:
    """Each group's mean over its processes, and how exactly it is known.

    The variance of one part is its error's plus its luck's. A group's own luck is what its parts
    differ by beyond their errors; the other groups' mean is counted in as OTHERS more of them.
    Source: Smyth 2004, doi.org/10.2202/1544-6115.1027 (a variance moderated by other groups').
    """
    luck = {key: _luck(parts) for key, parts in groups.items() if len(parts) > 1}
    whole = sum(len(groups[key]) - 1 for key in luck)
    total = sum(found * (len(groups[key]) - 1) for key, found in luck.items())
    result = {}
    for key, parts in groups.items():
        own = len(parts) - 1
        others = whole - own
        usual = max(0.0, (total - luck.get(key, 0.0) * own) / others) if others else 0.0
        shares = _shares(parts, usual)
        value = float(shares @ [part.value for part in parts])
        if not own:
            result[key] = Mean(value=value, variance=math.nan, dof=math.nan)
            continue
        counted = min(OTHERS, others)
        moderated = (counted * usual + own * max(0.0, luck[key])) / (counted + own)
        squares = shares**2
        of_luck = Mean(value=0.0, variance=float(squares.sum()) * moderated, dof=counted + own)
        errors = [
            Mean(value=0.0, variance=float(square) * (part.error or 0.0) ** 2, dof=part.dof)
            for square, part in zip(squares, parts, strict=True)
        ]
        result[key] = _sum(value, [of_luck, *errors])
    return result


def estimates(
    groups: Mapping[K, Sequence[Part]], confidence: float = CONFIDENCE
) -> dict[K, Estimate]:
    """With intervals; of parts of which a bound is known only, the end beyond it is infinite."""
    beyond = {key: frozenset(part.beyond for part in parts) for key, parts in groups.items()}
    return {
        key: replace(mean.estimate(confidence), beyond=beyond[key])
        for key, mean in means(groups).items()
    }


def _luck(parts: Sequence[Part]) -> float:
    """The variance between processes that their errors do not account for; may come out below 0."""
    return variance(part.value for part in parts) - fmean(
        (part.error or 0.0) ** 2 for part in parts
    )


def _shares(parts: Sequence[Part], luck: float) -> np.ndarray:
    """How much each part counts: the more turns it has, the more, but luck has no turns.

    Not by its own error, which few turns know badly: those that came out small would count most.
    """
    if any(part.error is None for part in parts):
        return np.full(len(parts), 1 / len(parts))
    turns = np.array([part.dof + 1 for part in parts])
    of_a_turn = sum(part.error**2 * n * (n - 1) for part, n in zip(parts, turns, strict=True))
    variances = luck + of_a_turn / (turns - 1).sum() / turns
    return (1 / variances) / (1 / variances).sum() if variances.all() else turns / turns.sum()


def student_t(confidence: float, dof: float) -> float:
    """Between minus and plus this lies so much of Student's distribution.

    With x = sqrt(dof) tan(angle) its density is a power of the cosine.
    """
    angles, share = _student(round(min(dof, 1000.0), 1))
    return math.sqrt(min(dof, 1000.0)) * math.tan(np.interp(confidence, share, angles))


@cache
def _student(dof: float) -> tuple[np.ndarray, np.ndarray]:
    # closer together towards the end, where a small share is a large x
    angles = np.pi / 2 * (1 - np.linspace(1, 0, 20_001) ** 3)
    density = np.cos(angles) ** (dof - 1)
    steps = np.diff(angles) * (density[1:] + density[:-1]) / 2
    share = np.concatenate([[0.0], np.cumsum(steps)])
    return angles, share / share[-1]


def together(count: int, looks: int = 1) -> float:
    """The confidence of one verdict among `count`, so that a table errs once in twenty.

    `looks`: how often the table may be looked at, and the measuring ended because of what it says.
    Source: Bonferroni's inequality.
    """
    return 1 - (1 - CONFIDENCE) / (max(1, count) * max(1, looks))


def verdict(found: Estimate, words: tuple[str, str] = (FASTER, SLOWER)) -> str:
    """What an interval of a log gain says; where neither, what it leaves possible."""
    if math.isnan(found.half):
        return UNJUDGED
    if found.told:
        return words[found.value < 0]
    return f"{UNCHANGED} {percent(smallest(found))}" if found.half else SAME


def is_open(said: str) -> bool:
    """Whether a verdict says that no gain could be told."""
    return said.startswith(UNCHANGED) or said in (SAME, UNJUDGED)


def smallest(found: Estimate) -> float:
    """The smallest gain that would have been told, as a share: 0.02 is 2 %.

    Of a gain that was told, half the width of its interval; where none was, the largest that the
    interval leaves possible, either way.
    """
    return math.expm1(found.half if found.told else max(-found.low, found.high))


def percent(share: float) -> str:
    if math.isinf(share):
        return "∞ %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"

"""How sure a figure is: intervals that count rounds, and verdicts that a noisy machine cannot fake.

A round is one fresh process per rung. Steps of one process share its luck (where its memory lies,
what else the machine is doing), so what tells noise is how the rounds of one rung differ. That is
pooled over all rungs of a run, because two or three rounds of one rung alone say little.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
CONFIDENCE = 0.95
REPLICATES = 20_000
FASTER, SLOWER, UNCHANGED, UNJUDGED = "faster", "slower", "no measurable change", "not judged"


def intervals(
    groups: Mapping[K, Sequence[float]], confidence: float = CONFIDENCE
) -> dict[K, tuple[float, float]]:
    """A bootstrap interval around each group's median; a group holds one value per round.

    Residuals from the group means are pooled and resampled, as many as the group has rounds. Few
    rounds also know the size of the noise badly: each replicate is scaled by a draw of
    sqrt(dof / chi-square(dof)), which turns a normal interval into Student's t. NaN where no group
    has two rounds. Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, chapter 9.
    """
    noise = Noise(groups.values())
    return {
        key: noise.around(float(np.median(values)), (len(values),), confidence)
        for key, values in groups.items()
    }


def difference_intervals(
    pairs: Mapping[K, tuple[Sequence[float], Sequence[float]]], confidence: float = CONFIDENCE
) -> dict[K, tuple[float, float]]:
    """The same around median(second) - median(first), for rounds of two runs apart in time."""
    noise = Noise(values for pair in pairs.values() for values in pair)
    return {
        key: noise.around(float(np.median(b) - np.median(a)), (len(a), len(b)), confidence)
        for key, (a, b) in pairs.items()
    }


class Noise:
    """What rounds of the same thing differ by, pooled over groups."""

    def __init__(self, groups: Iterable[Sequence[float]]) -> None:
        self.pool, self.dof = [], 0
        for values in groups:
            if (count := len(values)) > 1:
                center = sum(values) / count
                scale = math.sqrt(
                    count / (count - 1)
                )  # what is left around an estimated mean is smaller by that
                self.pool += [(value - center) * scale for value in values]
                self.dof += count - 1
        self.cache: dict[tuple, np.ndarray] = {}

    def around(
        self, center: float, counts: tuple[int, ...], confidence: float
    ) -> tuple[float, float]:
        """An interval for a median, or for a difference of medians, of so many rounds each."""
        if not self.dof:
            return math.nan, math.nan
        tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        low, high = np.quantile(self.draws(counts), tails)
        return center + float(low), center + float(high)

    def draws(self, counts: tuple[int, ...]) -> np.ndarray:
        if counts not in self.cache:
            generator = np.random.default_rng(0)  # the same records give the same intervals
            total = np.zeros(REPLICATES)
            for count in counts:
                chosen = generator.choice(self.pool, (REPLICATES, count))
                signs = generator.choice((-1.0, 1.0), (REPLICATES, 1))  # noise has no direction
                total += np.median(chosen, axis=1) * signs[:, 0]
            self.cache[counts] = total * np.sqrt(
                self.dof / generator.chisquare(self.dof, REPLICATES)
            )
        return self.cache[counts]


def verdicts(
    groups: Mapping[K, Sequence[float]], words: tuple[str, str] = (FASTER, SLOWER)
) -> dict[K, str]:
    """Whether each group of log gains is above 0, below, or neither, judged together.

    `words`: what is said of a gain above 0, and of one below.
    """
    edges = intervals(groups, together(len(groups)))
    return {key: verdict(*edges[key], words) for key in groups}


def difference_verdicts(
    pairs: Mapping[K, tuple[Sequence[float], Sequence[float]]],
    words: tuple[str, str] = (FASTER, SLOWER),
) -> dict[K, str]:
    """The same for two runs: whether the second is better than the first."""
    edges = difference_intervals(pairs, together(len(pairs)))
    return {key: verdict(*edges[key], words) for key in pairs}


def together(count: int) -> float:
    """The confidence of one verdict among `count`, so that a table errs once in twenty.

    Source: Bonferroni's inequality.
    """
    return 1 - (1 - CONFIDENCE) / max(1, count)


def verdict(low: float, high: float, words: tuple[str, str] = (FASTER, SLOWER)) -> str:
    """What an interval of a log gain says."""
    if math.isnan(low):
        return UNJUDGED
    better, worse = words
    return better if low > 0 else worse if high < 0 else UNCHANGED

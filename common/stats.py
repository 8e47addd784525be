"""How sure a figure is: intervals that count rounds, and verdicts that a noisy machine cannot fake.

A round is one fresh process per rung. Steps of one process share its luck (where its memory lies,
what else the machine is doing), so what tells noise is how the rounds of one rung differ. That is
pooled over all rungs of a run, because two or three rounds of one rung alone say little.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
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
    pool, dof = [], 0
    for values in groups.values():
        if (count := len(values)) > 1:
            center = sum(values) / count
            pool += [(value - center) * math.sqrt(count / (count - 1)) for value in values]
            dof += count - 1
    if not dof:
        return dict.fromkeys(groups, (math.nan, math.nan))
    generator = np.random.default_rng(0)  # the same records give the same intervals
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    by_count = {}
    for count in {len(values) for values in groups.values()}:
        draws = np.median(generator.choice(pool, (REPLICATES, count)), axis=1)
        draws *= np.sqrt(dof / generator.chisquare(dof, REPLICATES))
        by_count[count] = np.quantile(draws, tails)
    return {
        key: tuple(float(np.median(values) + edge) for edge in by_count[len(values)])
        for key, values in groups.items()
    }


def verdicts(groups: Mapping[K, Sequence[float]]) -> dict[K, str]:
    """Whether each group of log ratios is above 0, below, or neither.

    Judged together: the confidence is divided among the groups (Bonferroni), so that it is the
    whole table that errs at most once in twenty.
    """
    judged = max(1, len(groups))
    edges = intervals(groups, 1 - (1 - CONFIDENCE) / judged)
    return {key: verdict(*edges[key]) for key in groups}


def verdict(low: float, high: float) -> str:
    """What an interval of a log ratio says."""
    if math.isnan(low):
        return UNJUDGED
    return FASTER if low > 0 else SLOWER if high < 0 else UNCHANGED

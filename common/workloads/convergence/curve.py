"""A loss that falls: where it reaches a target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """An evaluation."""

    tokens: float  # trained on until then
    seconds: float  # of training
    loss: float  # held-out, nats a token


def reached(curve: Sequence[Point], target: float) -> Point | None:
    """Where the loss first is at the target, between evaluations in a straight line; None: never.

    A loss that is no number is none that is reached.
    """
    for before, after in pairwise(curve):
        if after.loss <= target:
            share = (before.loss - target) / (before.loss - after.loss)
            return Point(
                tokens=before.tokens + share * (after.tokens - before.tokens),
                seconds=before.seconds + share * (after.seconds - before.seconds),
                loss=target,
            )
    return None


def loss_at(curve: Sequence[Point], tokens: float) -> float:
    """The loss after so many tokens, between evaluations in a straight line."""
    for before, after in pairwise(curve):
        if before.tokens <= tokens <= after.tokens:
            share = (tokens - before.tokens) / (after.tokens - before.tokens)
            return before.loss + share * (after.loss - before.loss)
    return curve[-1].loss


def told(curve: Sequence[Point], target: float | None) -> dict:
    """The curve for a record, what it reached, and where it ended; None: it did not, or nowhere."""
    found = None if target is None else reached(curve, target)
    final = curve[-1].loss
    return {
        "curve": [[point.tokens, point.seconds, point.loss] for point in curve],
        "tokens_to_target": found and found.tokens,
        "seconds_to_target": found and found.seconds,
        "final_loss": final if math.isfinite(final) else None,
    }

"""The least loss under a budget of bytes: one format for each matrix, chosen exactly."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

K, V = TypeVar("K", bound=Hashable), TypeVar("V", bound=Hashable)


def cheapest(options: Mapping[K, Mapping[V, tuple[int, float]]], budget: int) -> dict[K, V] | None:
    """A label for each thing, whose bytes sum to the budget at most and whose losses to the least.

    `options`: bytes and loss by thing and label; losses may be below 0. None where nothing fits.
    Exact: of all choices so far only those are given up that another one beats in both sums.
    Source: Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, chapter 11 (multiple choice).
    """
    front: list[tuple[int, float, tuple[V, ...]]] = [(0, 0.0, ())]
    for own in options.values():
        every = [
            (size + more, loss + worse, (*labels, label))
            for size, loss, labels in front
            for label, (more, worse) in own.items()
            if size + more <= budget
        ]
        every.sort(key=lambda one: one[:2])
        front, least = [], float("inf")
        for one in every:
            if one[1] < least:
                front.append(one)
                least = one[1]
    if not front:
        return None
    return dict(zip(options, front[-1][2], strict=True))

"""A sample that costs: a graph of its tokens, and how often random walks through it meet each.

What a graph is built for, and for each sample anew, is a model that also reads the graph; ours
does not. The work is as real: neighbours within a few tokens, and walks from every node.
"""

import random
from collections import defaultdict

import numpy as np

REACH = 4  # tokens to either side that are neighbours
# Perozzi, Al-Rfou, Skiena 2014, DeepWalk, arXiv:1403.6652, section 6.1
WALKS, LENGTH = 80, 40  # from every node, and nodes in each


class Walks:
    """A sample has, beside its tokens, the share of the walks' steps that end at each token."""

    costs = True

    @staticmethod
    def of(tokens: np.ndarray, number: int) -> np.ndarray:
        """Of inputs (L,): (L,) float32, the same at every call for a document of that number."""
        ids = tokens.tolist()
        visits = walked(graph(ids), random.Random(number))
        steps = sum(visits.values()) or 1
        return np.array([visits[token] / steps for token in ids], dtype=np.float32)


def graph(ids: list[int]) -> dict[int, list[int]]:
    """Each token's neighbours, as often as they are near it."""
    near: dict[int, list[int]] = defaultdict(list)
    for place, token in enumerate(ids):
        for other in ids[max(0, place - REACH) : place]:
            near[token].append(other)
            near[other].append(token)
    return near


def walked(near: dict[int, list[int]], chance: random.Random) -> dict[int, int]:
    """How often walks that begin at every node came to each."""
    visits: dict[int, int] = defaultdict(int)
    for start in near:
        for _ in range(WALKS):
            token = start
            for _ in range(LENGTH - 1):
                token = near[token][int(chance.random() * len(near[token]))]
                visits[token] += 1
    return visits

"""Which documents stand in which row of which batch, anew for every epoch.

A plan is iterated once an epoch, as a DataLoader does with its sampler, and gives batches; a batch
is a tuple of rows, a row a tuple of documents' numbers. All plans of the same documents have the
same documents in every epoch.
"""

import bisect
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

Row = tuple[int, ...]
Batch = tuple[Row, ...]


class Shuffled(Sampler):
    """One document a row, in random order."""

    sorts = False  # whether it must know the documents' lengths

    def __init__(
        self,
        numbers: Sequence[int],
        lengths: np.ndarray | None,
        rows: int,
        context: int,
        seed: int = 0,
    ) -> None:
        """`lengths`: of all documents that there are, by number, cut to the context.

        None where the plan need not know them. `rows`: in a batch.
        """
        self.numbers, self.lengths = np.asarray(numbers), lengths
        self.rows, self.context, self.seed = rows, context, seed
        self.epochs = 0

    def __iter__(self) -> Iterator[Batch]:
        """An epoch begins with its first batch: loaders with workers ask twice and use one."""
        random = np.random.default_rng((self.seed, self.epochs))
        self.epochs += 1
        yield from self.epoch(random)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.epoch(np.random.default_rng(self.seed)))

    def epoch(self, random: np.random.Generator) -> list[Batch]:
        return self.in_batches([(number,) for number in random.permutation(self.numbers).tolist()])

    def in_batches(self, rows: list[Row]) -> list[Batch]:
        """The last one may have fewer rows."""
        return [tuple(rows[at : at + self.rows]) for at in range(0, len(rows), self.rows)]


class Bucketed(Shuffled):
    """One document a row, and documents of like length in a batch.

    Sorted within buckets of some batches, so that an epoch is still mostly random; the batches are
    shuffled, since lengths that come and go in order make the loss do so, too
    (huggingface/transformers issue 20810).
    """

    sorts = True
    batches = 8  # in a bucket

    def epoch(self, random: np.random.Generator) -> list[Batch]:
        order, size, found = random.permutation(self.numbers), self.batches * self.rows, []
        for at in range(0, len(order), size):
            bucket = order[at : at + size]
            alike = bucket[np.argsort(-self.lengths[bucket], kind="stable")]
            found += self.in_batches([(number,) for number in alike.tolist()])
        random.shuffle(found)
        return found


class Packed(Shuffled):
    """As many documents in a row as its context holds, the best fit first.

    Source: best-fit decreasing bin packing (Johnson 1973); Ding et al. 2024, Fewer truncations
    improve language modeling, arXiv:2404.10830.
    """

    sorts = True

    def epoch(self, random: np.random.Generator) -> list[Batch]:
        order = random.permutation(self.numbers)
        longest_first = order[np.argsort(-self.lengths[order], kind="stable")].tolist()
        rows = best_fit(longest_first, self.lengths, self.context)
        random.shuffle(rows)
        return self.in_batches(rows)


def best_fit(numbers: list[int], lengths: np.ndarray, context: int) -> list[Row]:
    """Each document in turn into the fullest row that has room for it, or into a new one."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that a row has room for, the row), ascending
    for number in numbers:
        length = int(lengths[number])
        at = bisect.bisect_left(room, (length, -1))
        left, row = room.pop(at) if at < len(room) else (context, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        if left > length:
            bisect.insort(room, (left - length, row))
    return [tuple(row) for row in rows]


def padding(batches: Sequence[Batch], lengths: np.ndarray, layout, context: int) -> float:
    """The share of the batches' tokens that are none of a document's. `layout`: see feed.py."""
    real = whole = 0
    for batch in batches:
        filled = [int(lengths[list(row)].sum()) for row in batch]
        real += sum(filled)
        whole += len(batch) * layout.width(filled, context)
    return 1 - real / whole

"""From documents to batches: what the rungs of the ladder `data` change, one part at a time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.engine.errors import UserError, in_short
from common.gpt.text import END_OF_TEXT
from common.workloads.batches.documents import Documents
from common.workloads.batches.plans import Batch, Row
from common.workloads.train.update import IGNORED


class Fed(NamedTuple):
    """A batch. Padding follows a row's documents: <|endoftext|>, which no loss counts."""

    inputs: torch.Tensor  # (B, T) int64; each document begins with <|endoftext|>
    targets: torch.Tensor  # (B, T) int64: the ids that follow, IGNORED where padded
    documents: tuple[int, ...]  # in it
    filled: tuple[int, ...]  # tokens of documents in each row
    extras: torch.Tensor | None  # (B, T) float32: what else the samples have, of a token each


class FixedLength:
    """Every row is as long as the context."""

    @staticmethod
    def width(filled: Sequence[int], context: int) -> int:
        return context


class AsIs:
    """A sample is its tokens, and nothing else is made of it."""

    costs = False

    @staticmethod
    def of(tokens: np.ndarray, number: int) -> np.ndarray | None:
        """What a sample has beside its inputs, (L,) float32, or None."""
        return None


class Direct:
    """Batches are copied to the device when they are needed."""

    def __init__(self, batches, device: torch.device) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Fed]:
        return iter(self.batches)


class Samples(Dataset):
    """Item (rows) is the batch of those rows: the loader's own batching is off."""

    def __init__(self, source, recipe, context: int) -> None:
        self.source, self.layout, self.context = source, recipe.layout, context
        self.sample, self.kept = recipe.sample, {} if recipe.keep_samples else None

    def __getitem__(self, rows: Batch) -> Fed:
        made = [self.row(row) for row in rows]
        filled = tuple(len(inputs) for inputs, _, _ in made)
        width = self.layout.width(filled, self.context)
        shape = len(rows), width
        inputs, targets = np.full(shape, END_OF_TEXT), np.full(shape, IGNORED)
        extras = None if made[0][2] is None else np.zeros(shape, dtype=np.float32)
        for place, (ids, following, extra) in enumerate(made):
            inputs[place, : len(ids)], targets[place, : len(ids)] = ids, following
            if extras is not None:
                extras[place, : len(ids)] = extra
        documents = tuple(number for row in rows for number in row)
        extras = None if extras is None else torch.from_numpy(extras)
        return Fed(torch.from_numpy(inputs), torch.from_numpy(targets), documents, filled, extras)

    def row(self, numbers: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Inputs, targets, and extras of a row's documents, one after the other, (L,) each."""
        if len(numbers) == 1:
            return self.document(numbers[0])
        parts = zip(*map(self.document, numbers), strict=True)
        return tuple(None if part[0] is None else np.concatenate(part) for part in parts)

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if self.kept is not None and number in self.kept:
            return self.kept[number]
        tokens = self.source.tokens(number)[: self.context + 1]
        found = tokens[:-1], tokens[1:], self.sample.of(tokens[:-1], number)
        if self.kept is not None:
            self.kept[number] = found
        return found


def as_it_is(batch: Fed) -> Fed:
    """Instead of the loader's own, which would make tensors of the documents' numbers."""
    return batch


class Feed:
    """A recipe's batches of some documents, epoch after epoch."""

    def __init__(
        self, recipe, documents: Documents, numbers: Sequence[int], context: int, device, seed: int
    ) -> None:
        """`numbers`: the documents of an epoch. `seed`: of all epochs' orders."""
        begin = time.perf_counter()
        self.source = recipe.source(documents)
        self.numbers, self.context = numbers, context
        lengths = np.minimum(self.source.lengths(), context) if recipe.plan.sorts else None
        self.plan = recipe.plan(numbers, lengths, recipe.batch_size, context, seed)
        several = {"prefetch_factor": recipe.prefetch_factor} if recipe.workers else {}
        self.loader = DataLoader(
            Samples(self.source, recipe, context),
            sampler=self.plan,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=recipe.workers,
            persistent_workers=recipe.persistent_workers and recipe.workers > 0,
            pin_memory=recipe.pin_memory and torch.accelerator.is_available(),
            **several,
        )
        self.batches = len(self.plan)  # in an epoch
        self.transfer = recipe.transfer
        self.device = device
        self.prepared_s = time.perf_counter() - begin
        self.last: Fed | None = None  # as the loader gave it
        self.slack: list[int] = []  # of the batches so far: columns that are padding in all rows
        self.encoded = 0  # texts that this process tokenised in the epoch that was looked into

    def __iter__(self) -> Iterator[Fed]:
        """Epoch after epoch; the next one begins when its first batch is asked for."""
        while True:
            yield from self.transfer(self.epoch(), self.device)

    def epoch(self) -> Iterator[Fed]:
        """The batches of one epoch, on the host."""
        for batch in self.loader:
            self.last = batch
            self.slack.append(batch.inputs.shape[1] - max(batch.filled))
            yield batch


@contextmanager
def telling_of_workers() -> Iterator[None]:
    """Say in a sentence that a worker died. torch raises that wherever the training is then."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a worker that makes batches died: killed by hand, or by the system for want of "
            f"memory ({in_short(error)})"
        ) from error

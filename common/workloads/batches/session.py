"""Training on documents. A step of the clock is an epoch: the same documents at every rung."""

import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import numpy as np
import psutil
import torch

from common.engine.contract import Disturbed
from common.engine.session import Timed
from common.workloads.batches.documents import Documents, read_documents, starts, stream
from common.workloads.batches.feed import Fed, Feed, telling_of_workers
from common.workloads.batches.plans import padding
from common.workloads.train.batches import to_device
from common.workloads.train.build import train_step
from common.workloads.train.session import DATA_SEED, TrainSession

LONE_EPOCHS, LONE_S = 2, 0.5  # of the loader alone, after the timed steps: at least so long


class FedSession(TrainSession):
    """A process that trains on documents; `step` is an epoch."""

    def make_batches(self):
        settings = self.settings
        self.documents = read_documents(settings.docs)
        self.uncut = np.diff(starts(stream(self.documents)))  # inputs of each document
        self.lengths = np.minimum(self.uncut, settings.shape.context)
        self.numbers = chosen(self.documents, settings.documents)
        self.real = int(self.lengths[self.numbers].sum())  # tokens in an epoch
        self.feed = self.run.feed = Feed(
            self.recipe,
            self.documents,
            self.numbers,
            settings.shape.context,
            self.device,
            DATA_SEED,
        )
        self.weights: list[int] = []  # tokens that each batch's loss is the mean of
        self.first_batch_s: float | None = None
        return iter(self.feed)

    def step(self) -> None:
        with telling_of_workers():
            self.epoch()

    def epoch(self) -> None:
        for _ in range(self.feed.batches):
            asked = time.perf_counter()
            batch: Fed = next(self.batches)
            waited_s = time.perf_counter() - asked
            self.data_wait_s += waited_s
            if self.first_batch_s is None:
                self.first_batch_s = self.feed.prepared_s + waited_s
            self.seen.append(batch.documents)
            self.weights.append(sum(batch.filled))
            self.losses.append(self.train(batch.inputs, batch.targets))

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.run.batch = inputs, targets
        return train_step(self.run, *to_device(self.recipe, self.device, inputs, targets))

    def look(self) -> None:
        """What was tokenised and padded in the second epoch is told."""
        before = self.feed.source.encoded
        self.feed.slack.clear()
        super().look()
        self.feed.encoded = self.feed.source.encoded - before

    def audit_windows(self) -> None:
        """Each epoch was fed every document once."""
        due, batches = Counter(self.numbers), self.feed.batches
        for epoch in range(0, len(self.seen), batches):
            fed = Counter(n for batch in self.seen[epoch : epoch + batches] for n in batch)
            if fed != due:
                many = (fed - due).total() + (due - fed).total()
                raise Disturbed(f"an epoch was fed {many} documents too often or not at all")

    def all_losses(self) -> list[float]:
        """Of every epoch: the mean over its tokens."""
        losses, weights = np.array([loss.item() for loss in self.losses]), np.array(self.weights)
        whole = (losses * weights).reshape(-1, self.feed.batches).sum(axis=1)
        return (whole / self.real).tolist()

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        reserved, allocated = self.peaks
        return {
            "data_wait_s": self.data_wait_s,  # of the host, in the timed steps
            "losses": self.all_losses(),
            "tokens_per_step": self.real,
            "passes": len(self.seen) / self.feed.batches,
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,
            "text_sha256": self.documents.sha256,
            "text_source": self.documents.source,
            **self.validated(tell),
            **self.profiled(tell),
            "feed": self.told() | self.alone(tell),
        }

    def told(self) -> dict:
        """What is counted of the documents and of their batches."""
        every, context = range(len(self.lengths)), self.settings.shape.context
        recipe = self.recipe
        plan = recipe.plan(every, self.lengths, recipe.batch_size, context, DATA_SEED)
        batches = plan.epoch(np.random.default_rng(DATA_SEED))
        return {
            "documents": len(self.numbers),
            "of": len(self.uncut),
            "empty": self.documents.empty,
            "cut": int((self.uncut > context).sum()),
            "median": int(median(self.uncut)),
            "batches": self.feed.batches,
            "padding": padding(batches, self.lengths, recipe.layout, context),
            "first_batch_s": self.first_batch_s,
        }

    def alone(self, tell: Callable[[str], None]) -> dict:
        """The loader without training: how fast, and what a worker holds that nobody else does."""
        tell("the loader alone")
        self.batches.close()
        with telling_of_workers():
            return self.lone_epochs()

    def lone_epochs(self) -> dict:
        worker_bytes = None
        for place, _ in enumerate(self.feed.epoch(), start=1):
            if place == self.feed.batches:
                worker_bytes = most_unique(self.recipe.workers)
        begin, epochs = time.perf_counter(), 0
        while epochs < LONE_EPOCHS or time.perf_counter() - begin < LONE_S:
            epochs += sum(1 for _ in self.feed.epoch()) // self.feed.batches
        lone_s = time.perf_counter() - begin
        return {"loader_s": lone_s / epochs, "worker_bytes": worker_bytes}


def chosen(documents: Documents, wanted: int) -> list[int]:
    """The numbers of an epoch's documents: the same at every rung."""
    every = np.random.default_rng(DATA_SEED).permutation(len(documents.texts))
    return sorted(every[:wanted].tolist())


def most_unique(workers: int) -> int | None:
    """Bytes that only the largest of this process's children holds; None: not known, or none."""
    found = []
    for child in psutil.Process().children() if workers else ():
        try:
            found.append(child.memory_full_info().uss)
        except psutil.Error:
            return None
    return max(found, default=None)

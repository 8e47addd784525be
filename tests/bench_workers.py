"""What a worker holds that nobody else does, over epochs: python -m tests.bench_workers

A list that is only read is written to all the same: Python counts references in the objects. Each
page that a forked worker so touches becomes its own (pytorch/pytorch issue 13246).
"""

import torch

from common.gpt.shape import Shape
from common.workloads.batches.documents import read_documents
from common.workloads.batches.feed import Feed
from common.workloads.batches.recipe import FedRecipe
from common.workloads.batches.session import most_unique
from common.workloads.batches.sources import InLists, Mapped

EPOCHS, WORKERS = 4, 2


def unique_mib(source: type, copies: int) -> list[float]:
    """MiB of the largest worker at the end of each epoch over all documents."""
    found = read_documents()
    many = type(found)(source=found.source, texts=found.texts * copies)
    recipe = FedRecipe(source=source, workers=WORKERS, persistent_workers=True)
    feed = Feed(recipe, many, range(len(many.texts)), Shape().context, torch.device("cpu"), seed=7)
    held = []
    for _ in range(EPOCHS):
        for place, _ in enumerate(feed.epoch(), start=1):
            if place == feed.batches:
                held.append(most_unique(WORKERS) / 2**20)
    return held


def main() -> None:
    for copies in (1, 10):
        for source in (InLists, Mapped):
            held = "  ".join(f"{mib:6.1f}" for mib in unique_mib(source, copies))
            print(f"{source.__name__:8} {copies:3} times the documents, MiB by epoch: {held}")


if __name__ == "__main__":
    main()

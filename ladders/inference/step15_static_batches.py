"""15. Static batches.

Changes: a stream of uneven requests takes the place of eight that are alike; they arrive one after
the other. The next eight begin when the last of a batch has ended. Each row has positions of its
own, and a mask that ends at its own last token. Prompts were read before, as at all rungs.
Why: it is slower, and here to be compared with. Answers of 1 to N tokens have N/2 on average, but
a batch takes as long as its longest, and rows that have ended are computed on, for nobody. The next
rung answers the same requests with the same tokens.
Cost: a request that comes a moment too late waits for a whole batch.
When not: if answers are uneven.
Source: Yu et al. 2022, Orca: A Distributed Serving System for Transformer-Based Generative Models,
OSDI (request-level scheduling).
Expected: 0.57 times the tokens per second of requests that are alike: the share of rows in use.
"""

from dataclasses import replace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run
from common.workloads.generate.stream import Schedule
from ladders.inference.step08_compiled_step import Fixed

CHANGES = ("cache", "schedule")
NUMERICS = Numerics.DIFFERENT_WORK


class Uneven(Fixed):
    """A length for each request. Keys behind it, of whoever had its row before, are masked out."""

    def __init__(self, shape, dtype, requests, capacity, device) -> None:
        super().__init__(shape, dtype, requests, capacity, device)
        self.lengths = [0] * requests
        self.place = torch.zeros(requests, 1, dtype=torch.int64, device=device)
        self.rows = torch.arange(requests, device=device)[:, None]
        for tensor in (self.place, self.rows):
            torch._dynamo.mark_static_address(tensor)

    def begin(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = ids.shape[1]
        super().begin(ids)  # the longest still fits
        self.place.copy_(torch.tensor(self.lengths)[:, None])
        self.lengths = [length + new for length in self.lengths]
        return ids, self.place if new == 1 else self.place + self.places[:new]

    def extend(self, layer: int, key, value, positions) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer], self.values[layer]  # (B, H, capacity, D)
        keys[self.rows, :, positions] = key.transpose(1, 2)  # (B, H, n, D) -> (B, n, H, D)
        values[self.rows, :, positions] = value.transpose(1, 2)
        return keys, values

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        return super().seen(positions[:, None])  # (B, 1, n, capacity)

    def rollback(self, length: int) -> None:
        super().rollback(length)
        self.lengths = [min(length, own) for own in self.lengths]

    def admit(self, request: int, read: "Uneven") -> None:
        self.keys[:, request, :, : read.length] = read.keys[:, 0, :, : read.length]
        self.values[:, request, :, : read.length] = read.values[:, 0, :, : read.length]
        self.has(request, read.length)

    def release(self, request: int) -> None:
        self.has(request, 0)

    def has(self, request: int, length: int) -> None:
        self.lengths[request] = length
        self.length = max(self.lengths)


class Static(Schedule):
    """A batch is let in when the one before it has ended, to the last request."""

    @staticmethod
    def takes(free: int, rows: int) -> int:
        return free if free == rows else 0


def applies(device, recipe: GenerateRecipe) -> str | None:
    return "one request at a time is no batch" if recipe.requests == 1 else None


def in_effect(run: Run) -> str:
    if not isinstance(run.cache, Uneven) or run.served is None:
        raise NotInEffect("no stream of uneven requests was served")
    return f"{run.served.row_use:.0%} of rows used"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, cache=Uneven, schedule=Static)

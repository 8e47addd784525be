"""A stream of requests, uneven in length, through the rows of one batch.

Requests are served in the order in which they come; a schedule says when waiting ones are let into
free rows. Time is counted in passes of the model, each of which gives every request in a row one
token: so arrivals, drawn from a seed, fall alike on every device and in every step. A free row
takes part in a pass all the same, for the batch's shape is fixed; what it says goes nowhere.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.workloads.generate.caches import Cache
from common.workloads.generate.model import Decoder, likeliest

SEED = 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One of the stream. An answer's length is drawn, too: where it would end is not looked at."""

    number: int  # in the order of arrival
    arrives: int  # passes after the beginning
    prompt_tokens: int
    new_tokens: int  # at least 1


def stream(count: int, rows: int, prompt_tokens: int, new_tokens: int) -> list[Request]:
    """So many requests, uneven: prompts of half to all of `prompt_tokens`, answers of 1 to
    `new_tokens`, each length as likely as any other.

    At the beginning as many are there as there are rows. After that the time between two arrivals
    is exponentially distributed, with the mean at which full rows would just keep up.
    """
    draw, now, found = random.Random(SEED), 0.0, []
    per_pass = rows / ((1 + new_tokens) / 2)  # requests that full rows end
    for number in range(count):
        now += draw.expovariate(per_pass) if number >= rows else 0.0
        found.append(
            Request(
                number=number,
                arrives=int(now),
                prompt_tokens=draw.randint((1 + prompt_tokens) // 2, prompt_tokens),
                new_tokens=draw.randint(1, new_tokens),
            )
        )
    return found


class Schedule:
    """When requests that wait are let in."""

    @staticmethod
    def takes(free: int, rows: int) -> int:
        """How many may be let in, where so many of the rows are free."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a stream."""

    ids: torch.Tensor  # (rows, passes): the token that followed in each row
    places: dict[Request, tuple[int, int]]  # its row, and the pass that gave its first new token
    times: list[int]  # at the beginning of each pass: ahead of its number after a pause
    logits: torch.Tensor  # (1, V), of the last token

    def tokens(self, request: Request) -> torch.Tensor:
        """The answer, (new tokens,)."""
        row, begin = self.places[request]
        return self.ids[row, begin : begin + request.new_tokens]

    @property
    def passes(self) -> int:
        return self.ids.shape[1]

    @property
    def row_use(self) -> float:
        """The share of all rows in all passes that gave somebody a token."""
        return sum(request.new_tokens for request in self.places) / self.ids.numel()

    @property
    def refilled(self) -> int:
        """Requests that were let in while the answer to an earlier one went on."""
        spans = [(begin, begin + request.new_tokens) for request, (_, begin) in self.places.items()]
        return sum(any(first < begin < end for first, end in spans) for begin, _ in spans)


def greedy(logits: torch.Tensor, busy: dict[int, Request]) -> torch.Tensor:
    """What follows, (rows, 1), after logits (rows, 1, V), whoever is in which row."""
    return likeliest(logits)


@torch.no_grad()
def serve(
    model: Decoder,
    cache: Cache,
    requests: list[Request],
    schedule: type[Schedule],
    admit: Callable[[Request, int], torch.Tensor],
    follow: Callable[[torch.Tensor, dict[int, Request]], torch.Tensor] = greedy,
) -> Served:
    """The requests, in the order of their arrival, through the cache's rows.

    `admit` puts a request's prompt into a row and gives the token after it, (1,). That is no new
    token yet: as where requests are all alike, it belongs to the prompt.
    """
    waiting, busy, places, times, found = deque(requests), {}, {}, [], []
    ids = torch.zeros(cache.requests, 1, dtype=torch.int64, device=cache.places.device)
    now = 0
    while waiting or busy:
        if not busy:
            now = max(now, waiting[0].arrives)  # nothing to do until then
        free = [row for row in range(cache.requests) if row not in busy]
        due = sum(request.arrives <= now for request in waiting)
        ids = ids.clone()  # the tokens of the pass before are kept
        for row in free[: min(due, schedule.takes(len(free), cache.requests))]:
            request = waiting.popleft()
            ids[row] = admit(request, row)
            busy[row], places[request] = request, (row, len(found))
        for row in free:
            if row not in busy:
                cache.release(row)
        logits = model(ids, cache)
        last = logits[next(iter(busy))]
        ids = follow(logits, busy)
        found.append(ids)
        times.append(now)
        now += 1
        busy = {
            row: request
            for row, request in busy.items()
            if len(found) - places[request][1] < request.new_tokens
        }
    return Served(torch.cat(found, dim=1), places, times, last.clone())

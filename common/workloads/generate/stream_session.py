"""A stream of requests, as the clock meets it. A step answers all of them.

Their prompts were read before: when a request is let in, keys and values are copied into its row.
So tok/s is new tokens per second of decoding, as at every other rung. How long requests wait on one
machine is measured after the timed steps, in the same stream with each prompt read as its request
is let in.
"""

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from common.accelerator.device import synchronize
from common.engine.contract import Disturbed
from common.engine.session import Timed
from common.workloads.generate.caches import Cache
from common.workloads.generate.model import likeliest
from common.workloads.generate.session import GenerateSession, prompts
from common.workloads.generate.stream import Request, Served, greedy, serve, stream


class StreamSession(GenerateSession):
    """One process that answers a stream."""

    def prepare(self) -> None:
        settings = self.settings
        lengths = settings.prompt_tokens, settings.new_tokens
        self.requests = stream(settings.stream, self.recipe.requests, *lengths)
        read = prompts(self.held_out, len(self.requests), settings.prompt_tokens)
        self.prompts = read.to(self.device)  # (requests, prompt tokens), the longest
        self.begun = {request: self.read(request) for request in self.requests}
        self.tokens_per_step = self.due = sum(one.new_tokens for one in self.requests)

    @torch.no_grad()
    def read(self, request: Request) -> tuple[Cache, torch.Tensor]:
        """A cache with its prompt alone, and the token after it, (1, 1).

        Not by the pass of a single token, which may be compiled for the batch.
        """
        recipe, count = self.recipe, request.prompt_tokens
        cache = recipe.cache(self.run.cache.shape, recipe.dtype, 1, count, self.device)
        ids, positions = cache.begin(self.prompts[request.number, None, :count])
        return cache, likeliest(self.run.model.logits(ids, positions, cache, 1))

    def serve(self, begun: Callable[[Request], tuple], follow=greedy) -> Served:
        """`begun` gives a request's prompt as `read` does, when the request is let in."""
        cache = self.run.cache

        def admit(request: Request, row: int) -> torch.Tensor:
            read, first = begun(request)
            cache.admit(row, read)
            return first[0]

        return serve(self.run.model, cache, self.requests, self.recipe.schedule, admit, follow)

    def answers(self, served: Served) -> torch.Tensor:
        """(1, tokens): all answers, one behind the other."""
        return torch.cat([served.tokens(request) for request in self.requests])[None]

    def step(self) -> None:
        if self.replays and not self.run.operators:
            self.record()
        served = self.run.served = self.serve(self.begun.__getitem__)
        self.run.new_tokens, self.last = served.passes, served.logits
        if not self.decoded:
            self.first = self.last
        self.decoded.append(self.answers(served))
        self.lengths.append(self.decoded[-1].shape[1])
        self.cache_bytes = self.run.cache.nbytes

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Of the stream with its prompts in between also percentiles, in seconds."""
        found = super().values(timed, tell)
        served = self.run.served
        return found | {"passes": served.passes, "row_use": served.row_use} | self.waits

    def time_to_first_token(self, tell: Callable[[str], None]) -> float:
        """The median request's, from its arrival on: it waits for a row, too."""
        tell("the stream with its prompts")
        ends, firsts = [self.now()], {}

        def begun(request: Request) -> tuple:
            found = self.read(request)
            firsts[request] = self.now()
            return found

        def follow(logits: torch.Tensor, busy: dict) -> torch.Tensor:
            ids = likeliest(logits)
            ends.append(self.now())
            return ids

        served = self.serve(begun, follow)
        if not torch.equal(self.answers(served), self.decoded[0]):
            raise Disturbed("with prompts read in between the answers are other ones")
        found = latencies(served, ends, firsts)
        self.waits = {
            "served_s": ends[-1] - ends[0],
            **{
                f"{name}_{share}_s": percentile(seconds, share)
                for name, seconds in found.items()
                for share in (50, 95)
            },
        }
        return self.waits["first_50_s"]

    def after_other_prompts(self, tell: Callable[[str], None]) -> dict:
        """None: a stream has prompts of many lengths."""
        return {}

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def latencies(
    served: Served, ends: Sequence[float], firsts: dict[Request, float]
) -> dict[str, list[float]]:
    """Seconds from each request's arrival to its `first` token, from each `token` to the next, and
    from arrival to the last token (`request`).

    `ends`: when the stream began, and when each pass had ended; `firsts`: when a request's prompt
    had been read. A request arrives as the first pass begins whose time is not before its own.
    """
    found = {"first": [], "token": [], "request": []}
    for request, (_, begin) in served.places.items():
        arrived = next(ends[n] for n, time in enumerate(served.times) if time >= request.arrives)
        stamps = [firsts[request], *ends[begin + 1 : begin + 1 + request.new_tokens]]
        found["first"].append(stamps[0] - arrived)
        found["token"] += [after - before for before, after in pairwise(stamps)]
        found["request"].append(stamps[-1] - arrived)
    return found


def percentile(values: Sequence[float], share: int) -> float:
    """The least value that `share` % of them do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[math.ceil(share / 100 * len(ordered)) - 1]

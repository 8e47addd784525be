"""The processes that train together."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, kw_only=True)
class World:
    """By default a single process. distributed.py makes larger ones."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    greeting: str = ""  # what to say of it at the start
    headroom_gib: float = 0.0  # device memory that training together takes beside the model
    saving: dist.ProcessGroup | None = None  # on hosts, and with more patience than a step has
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    slowest: Callable[[float], float] = lambda value: value  # the largest of all processes' values
    mean: Callable[[float], float] = lambda value: value  # over all processes, for display only
    # what `find` returns in the first process, or the UserError that it raises there
    from_first: Callable[[Callable[[], Any]], Any] = lambda find: find()
    from_all: Callable[[Any], list] = lambda value: [value]  # every process's value, by rank
    summary: Callable[[dict], list[str]] = lambda facts: []  # what to say of it at the end


class Single:
    """Training by one process: nothing to join."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        pass

    @contextmanager
    def join(self, device_type: str, options: argparse.Namespace) -> Iterator[World]:
        yield World()

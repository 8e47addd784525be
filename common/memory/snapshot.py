"""What CUDA's caching allocator saw, in a file for pytorch.org/memory_viz.

Source: docs.pytorch.org/docs/stable/torch_cuda_memory.html. Written from that page; not run on a
GPU yet.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MOST_EVENTS = 200_000  # kept; the oldest go first


@contextmanager
def snapshot_to(path: Path | None) -> Iterator[None]:
    """Record the allocator's events, and write them even if memory runs out meanwhile.

    Without a path, or without CUDA, there is nothing to record.
    """
    if path is None or not torch.cuda.is_available():
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS)
    try:
        yield
    finally:
        try:
            torch.cuda.memory._dump_snapshot(str(path))
        except Exception as error:  # a report that fails must not take the training's error away
            sys.stderr.write(f"warning: no snapshot in {path}: {error}\n")
        torch.cuda.memory._record_memory_history(enabled=None)

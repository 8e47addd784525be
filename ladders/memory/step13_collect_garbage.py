"""13. Garbage collection.

Changes: gc.collect() and empty_cache() after every update. A warning, here to be seen to fail.
Why smaller: it is not. Tensors are freed when nothing refers to them any more; the collector is for
cycles, and a cached segment is what the next step takes.
Cost: time, most of all where the allocator must ask for its segments again.
When not: always. One project went from 108 to 65 s without it. If memory grows from step to step,
find what holds it (python -m ladders.memory.track).
Source: docs.pytorch.org/docs/stable/notes/cuda.html (memory management); gc.
Expected: not a byte, and a slower step.
"""

import gc
from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("collect_garbage",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    full = gc.get_stats()[-1]["collections"]
    if not run.update.collects:
        raise NotInEffect("nothing is collected after an update")
    return f"{full} full collections"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, collect_garbage=True)

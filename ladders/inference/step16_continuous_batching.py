"""16. Continuous batching.

Changes: a request that waits takes the row of one that has ended, before the next pass.
Why faster: no row is computed for nobody while somebody waits. The gain is the longest answer of a
batch over the mean one: this stream's are of 1 to N tokens, each length as likely as any other.
Cost: a prompt that is read between two passes makes all other requests wait for it. For tok/s
prompts were read before; the stream's own table has them in between, and the 95th percentile of the
time from token to token shows them.
When not: if all answers are equally long. Where prompts take most of the time, reading them in
pieces (Sarathi-Serve) or on another device (DistServe) gains more.
Source: Yu et al. 2022, Orca: A Distributed Serving System for Transformer-Based Generative Models,
OSDI (iteration-level scheduling).
Expected: 1.4 times the tokens per second of static batches (the passes of 200 seeds: the median),
and half the wait.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run
from common.workloads.generate.stream import Schedule

CHANGES = ("schedule",)
NUMERICS = Numerics.ROUNDING


class Continuous(Schedule):
    """Whoever waits is let in as soon as a row is free."""

    @staticmethod
    def takes(free: int, rows: int) -> int:
        return free


def applies(device, recipe: GenerateRecipe) -> str | None:
    return "there is no stream of requests" if recipe.schedule is None else None


def in_effect(run: Run) -> str:
    if not run.served.refilled:
        raise NotInEffect("no row was taken again while others went on")
    return f"{run.served.row_use:.0%} of rows used"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, schedule=Continuous)

"""The search behind batch_size=LARGEST: double until memory ends, each try in its own process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from common.device import GIB
from common.measure import Settings
from common.process import Outcome, run_job
from common.recipe import LARGEST, Recipe

RAM_SHARE = 0.5  # on a CPU, of the memory that is free when the search starts


@dataclass(frozen=True, kw_only=True)
class Found:
    """A batch that trained, and what ended the search."""

    batch_size: int
    why: str


def search(
    start: int,
    attempt: Callable[[int], Outcome],
    *,
    most: int,
    seconds: float = float("inf"),
    ram_gib: float = float("inf"),
) -> Found:
    """Double from `start`, which is known to train, until a try fails or a limit is in sight.

    Limits: `most` windows in the text; `seconds` for the whole search and `ram_gib` for a try's
    peak, both judged beforehand by supposing that a doubling doubles them.
    """
    begin = time.perf_counter()
    batch, last = start, None
    while True:
        spent = time.perf_counter() - begin
        if 2 * batch > most:
            return Found(batch_size=batch, why=f"the text has only {most} windows")
        if last and 2 * last.measurement["peak_reserved_gib"] > ram_gib:
            why = f"{2 * batch} may need more than {ram_gib:.1f} GiB, {RAM_SHARE:.0%} of free RAM"
            return Found(batch_size=batch, why=why)
        if last and spent + 2 * last.wall_s > seconds:
            return Found(
                batch_size=batch, why=f"{2 * batch} may take the search past {seconds:g} s"
            )
        last = attempt(2 * batch)
        if last.status != "ok":
            reason = "out of memory" if last.status == "oom" else last.reason
            return Found(batch_size=batch, why=f"{2 * batch}: {reason}")
        batch *= 2


def find_largest(
    recipe: Recipe,
    start: int,
    settings: Settings,
    *,
    windows: int,
    seconds: float,
    timeout: float,
    report: Callable[[str], None] = lambda phase: None,
) -> Found:
    """Search for a recipe whose batch_size is LARGEST. `start` is the batch below it."""
    on_cpu = settings.device == "cpu"

    def attempt(batch: int) -> Outcome:
        report(f"trying batch {batch}")
        job = {
            "kind": "rung",
            "ladder": "",
            "applied": [],
            "recipe": replace(recipe, batch_size=batch).to_json(),
            "settings": replace(settings, steps=1, warmup=2).to_json(),
        }
        return run_job(job, timeout)

    return search(
        start,
        attempt,
        most=windows,
        seconds=seconds if on_cpu else float("inf"),
        ram_gib=RAM_SHARE * psutil.virtual_memory().available / GIB if on_cpu else float("inf"),
    )


def needs_search(recipe: Recipe) -> bool:
    return recipe.batch_size == LARGEST

"""What a recipe leaves open is settled by measuring: recipes are tried, each in a fresh process.

Two things may be open: which of a rung's candidates is the fastest here, and, behind
batch_size=LARGEST, how large a batch fits. All that was tried is told, with its rate or the reason
why it has none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psutil

from common.device import GIB
from common.job import Check, Job
from common.measure import Settings
from common.process import Outcome
from common.recipe import LARGEST, Recipe

CLOSE = 0.03  # a candidate's advantage over an earlier one that is no reason to prefer it
RAM_SHARE = 0.5  # on a CPU, of the memory that is free when the search starts
UNFIT = 1.1  # a forecast of so many times the device's memory is not tried


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How recipes are tried."""

    settings: Settings
    run: Callable[[dict], Outcome]  # gives a job to a fresh process
    report: Callable[[str], None] = lambda phase: None
    ladder: str = ""
    applied: tuple[int, ...] = ()  # rungs of that ladder, whose probes every try must pass
    under: tuple[str, ...] = ()  # likewise, of the ladder that it stands on
    check: Check | None = None  # for tries that ask for it

    def attempt(
        self, recipe: Recipe, what: str, steps: int | None = None, check: bool = False
    ) -> Outcome:
        """One recipe, after the shortest warm-up. `steps`: timed; None: as many as a rung's."""
        self.report(f"trying {what}")
        steps = steps or self.settings.steps
        job = Job(
            recipe=recipe,
            settings=replace(self.settings, steps=steps, warmup=2),
            ladder=self.ladder,
            applied=self.applied,
            under=self.under,
            check=self.check if check else None,
        )
        return self.run(job.to_json())


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A recipe with nothing left open, and how it came about."""

    recipe: Recipe
    note: str = ""
    tried: dict[str, float | None] = field(default_factory=dict)  # rates, None: refused
    refused: dict[str, dict] = field(default_factory=dict)  # status, reason, and end of the log


class Unsettled(Exception):
    """Nothing that was tried can be kept; `outcome` is a try that stands for all."""

    def __init__(self, reason: str, outcome: Outcome, tried=None, refused=None) -> None:
        super().__init__(reason)
        self.outcome, self.tried, self.refused = outcome, tried or {}, refused or {}


class SearchFailed(Unsettled):
    """A try failed for another reason than memory: how large a batch fits is not known."""

    def __init__(self, batch_size: int, outcome: Outcome) -> None:
        super().__init__(f"the search failed at batch {batch_size}: {outcome.reason}", outcome)


def settle(
    recipe: Recipe,
    candidates: dict[str, Recipe],
    trials: Trials,
    *,
    rate: Callable[[Outcome], float],
    twice: bool,
    start: int,
    seconds: float,
    device_gib: float,
) -> Settled:
    """The fastest of the candidates, where there are two at least, at the batch it asks for.

    `rate` is higher for what is faster; `twice` as `race` has it. Candidates that leave the batch
    open race at `start`, and only the winner's is searched for, as `find_largest` does. Raises
    Unsettled.
    """
    tried, refused, notes = {}, {}, []
    if len(candidates) > 1:
        at_start = {
            label: replace(found, batch_size=start) if needs_search(found) else found
            for label, found in candidates.items()
        }
        tried, failed = race(at_start, trials, rate, twice)
        refused = {label: outcome.told() for label, outcome in failed.items()}
        if not any(tried.values()):
            raise none_passed(failed, trials, tried, refused)
        recipe = candidates[best(tried)]
        notes.append(in_words(tried, failed))
    if needs_search(recipe):
        found = find_largest(recipe, start, trials, seconds=seconds, device_gib=device_gib)
        recipe = replace(recipe, batch_size=found.batch_size)
        notes.append(f"search ended at {found.why}")
    return Settled(recipe=recipe, note="; ".join(notes), tried=tried, refused=refused)


def race(
    candidates: dict[str, Recipe], trials: Trials, rate: Callable[[Outcome], float], twice: bool
) -> tuple[dict[str, float | None], dict[str, Outcome]]:
    """Rates of those that passed the rung's probe and the equivalence check, and the others.

    `twice`, for CPUs: the second time in the opposite order, and the better rate counts: what else
    the machine does makes a window slower, never faster. An accelerator has no neighbours, and a
    process there compiles for half a minute: once. Who has passed is not checked again, and who is
    out, unless for a disturbance, is not tried again.
    """
    tried: dict[str, float | None] = dict.fromkeys(candidates)
    out: dict[str, Outcome] = {}
    for label in (*candidates, *(reversed(candidates) if twice else ())):
        if label in out and out[label].status != "disturbed":
            continue
        passed = tried[label] is not None
        outcome = trials.attempt(candidates[label], label, check=not passed)
        if outcome.status == "ok":
            tried[label] = max(rate(outcome), tried[label] or 0.0)
            out.pop(label, None)
        elif not passed:
            out[label] = outcome
    return tried, out


def best(tried: dict[str, float | None]) -> str:
    """The label of the highest rate, None: not measured; of those near it, the one named first."""
    enough = (1 - CLOSE) * max(rate or 0.0 for rate in tried.values())
    return next(label for label, rate in tried.items() if (rate or 0.0) >= enough)


def in_words(tried: dict[str, float | None], failed: dict[str, Outcome]) -> str:
    words = {"n/a": "does not apply"}
    return "tried: " + ", ".join(
        f"{label} {rate:,.0f}"
        if rate
        else f"{label} {words.get(failed[label].status, failed[label].status)}"
        for label, rate in tried.items()
    )


def none_passed(failed: dict[str, Outcome], trials: Trials, tried: dict, refused: dict):
    """Why no candidate is left, as one outcome; a carried rung's refusal is told before others."""
    carried = [o for o in failed.values() if o.refuser in trials.applied[:-1]]
    if carried:
        return Unsettled(carried[0].reason, carried[0], tried, refused)
    reasons = {outcome.reason: label for label, outcome in failed.items()}
    each = (f"{label}: {outcome.reason}" for label, outcome in failed.items())
    why = next(iter(reasons)) if len(reasons) == 1 else "; ".join(each)
    statuses = {outcome.status for outcome in failed.values()} - {"disturbed"}
    last = list(failed.values())[-1]
    status = statuses.pop() if len(statuses) == 1 else "failed"
    outcome = replace(last, status=status, wall_s=sum(o.wall_s for o in failed.values()))
    return Unsettled(f"no candidate passed: {why}", outcome, tried, refused)


def needs_search(recipe: Recipe) -> bool:
    return recipe.batch_size == LARGEST


@dataclass(frozen=True, kw_only=True)
class Found:
    """A batch that trained, and what ended the search."""

    batch_size: int
    why: str


def find_largest(
    recipe: Recipe,
    start: int,
    trials: Trials,
    *,
    seconds: float,
    windows: float = float("inf"),
    device_gib: float = float("inf"),
) -> Found:
    """Search for a recipe whose batch_size is LARGEST. `start` is the batch below it.

    `windows`: the most that a step may have, where it trains on each window of a text once. Raises
    SearchFailed.
    """
    on_cpu = trials.settings.device == "cpu"
    return search(
        start,
        lambda batch: trials.attempt(replace(recipe, batch_size=batch), f"batch {batch}", steps=1),
        most=windows,
        seconds=seconds if on_cpu else float("inf"),
        ram_gib=RAM_SHARE * psutil.virtual_memory().available / GIB if on_cpu else float("inf"),
        device_gib=float("inf") if on_cpu else device_gib,
    )


def search(
    start: int,
    attempt: Callable[[int], Outcome],
    *,
    most: float = float("inf"),
    seconds: float = float("inf"),
    ram_gib: float = float("inf"),
    device_gib: float = float("inf"),
) -> Found:
    """Double from `start`, which is known to train, until memory ends or a limit is in sight.

    Limits: `most` windows; `seconds` for the whole search and `ram_gib` for a try's peak, both
    judged beforehand by supposing that a doubling doubles them. `device_gib`: the device's memory.
    Two tries tell how it grows with the batch; the batches between them and the largest that
    should fit are left out, and one that is far too large is not tried. Raises SearchFailed.
    """
    begin = time.perf_counter()
    batch, last = start, None
    peaks: dict[int, float] = {}  # GiB, of what trained
    refused = float("inf")  # the smallest batch that did not

    def against(step: int) -> str | None:
        """Why the next batch should not be tried."""
        if step >= refused:
            return f"{step}: out of memory"
        if step > most:
            return f"the text has only {most} windows"
        if last and 2 * peaks[batch] > ram_gib:
            return f"{step} may need more than {ram_gib:.1f} GiB, {RAM_SHARE:.0%} of free RAM"
        if last and time.perf_counter() - begin + 2 * last.wall_s > seconds:
            return f"{step} may take the search past {seconds:g} s"
        if (wanted := forecast(peaks, step)) > UNFIT * device_gib:
            return f"{step} would need about {wanted:.0f} of {device_gib:.0f} GiB"
        return None

    def should_fit(step: int) -> bool:
        known = len(peaks) > 1 and device_gib < float("inf")
        return known and step < refused and step <= most and forecast(peaks, step) < device_gib

    while (why := against(2 * batch)) is None:
        step = 2 * batch
        while should_fit(2 * step):
            step *= 2
        last = attempt(step)
        if last.status == "oom":
            refused = step
        elif last.status != "ok":
            raise SearchFailed(step, last)
        else:
            batch, peaks[step] = step, last.measurement["peak_reserved_gib"]
    return Found(batch_size=batch, why=why)


def forecast(peaks: dict[int, float], batch: int) -> float:
    """GiB that a batch should need, on the line through the two largest that trained; else 0."""
    if len(peaks) < 2:
        return 0.0
    (a, at_a), (b, at_b) = sorted(peaks.items())[-2:]
    return at_b + (at_b - at_a) / (b - a) * (batch - b)

"""What a recipe leaves open is settled by measuring: recipes are tried, each in a fresh process.

Two things may be open: which of a rung's candidates is the fastest here, and what the workload
itself finds by trying (`Workload.close`): how large a batch fits, say. All that was tried is told,
with its rate or the reason why it has none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from common.engine.contract import IN_WORDS
from common.engine.job import Against, Job
from common.engine.metric import LOWER, ROUNDS, Metric
from common.engine.plan import Plan
from common.engine.process import Outcome
from common.engine.session import Settings
from common.engine.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How recipes are tried."""

    workload: Workload
    settings: Settings
    run: Callable[[Job], Outcome]  # gives a job to a fresh process
    tell: Callable[[str], None] = lambda phase: None
    ladder: str = ""
    applied: tuple[int, ...] = ()  # rungs of that ladder, whose probes every try must pass
    under: tuple[str, ...] = ()  # likewise, of the ladder that it stands on
    check: Against | None = None  # for tries that ask for it

    def attempt(self, recipe, what: str, steps: int | None = None, check: bool = False) -> Outcome:
        """One recipe, after the shortest warm-up. `steps`: timed; None: as many as a rung's."""
        self.tell(f"trying {what}")
        steps = steps or self.settings.steps
        job = Job(
            workload=self.workload,
            recipe=recipe,
            settings=self.workload.briefly(replace(self.settings, steps=steps, warmup=2)),
            ladder=self.ladder,
            applied=self.applied,
            under=self.under,
            check=self.check if check else None,
        )
        return self.run(job)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A recipe with nothing left open, and how it came about."""

    recipe: Any
    note: str = ""
    tried: dict[str, float | None] = field(default_factory=dict)  # rates, None: refused
    refused: dict[str, dict] = field(default_factory=dict)  # status, reason, and end of the log
    first_try: dict = field(default_factory=dict)  # what the chosen one's measured, without lists


class Unsettled(Exception):
    """Nothing that was tried can be kept; `outcome` is a try that stands for all."""

    def __init__(self, reason: str, outcome: Outcome, tried=None, refused=None) -> None:
        super().__init__(reason)
        self.outcome, self.tried, self.refused = outcome, tried or {}, refused or {}


def settle(recipe, candidates: dict[str, Any], trials: Trials, plan: Plan) -> Settled:
    """The best of the candidates, where there are two at least, with what it leaves open closed.

    Candidates that leave something open race as the plan's baseline has it, and only the winner's
    is searched for. Raises Unsettled.
    """
    workload, tried, refused, notes, first = trials.workload, {}, {}, [], {}
    if len(candidates) > 1:
        closed = {
            label: workload.closed_as(found, plan.baseline) for label, found in candidates.items()
        }
        timed = workload.headline.noise == ROUNDS
        twice = timed and plan.device.type == "cpu" and workload.tries_on_cpu > 1
        tried, failed, firsts = race(closed, trials, twice)
        refused = {label: outcome.told() for label, outcome in failed.items()}
        if not any(tried.values()):
            raise none_passed(failed, trials, tried, refused)
        chosen = best(tried, workload)
        recipe, first = candidates[chosen], firsts[chosen]
        notes.append(in_words(tried, failed, workload.headline))
    if workload.is_open(recipe):
        recipe, note = workload.close(recipe, plan, trials)
        notes.append(note)
    figures = {name: one for name, one in first.items() if not isinstance(one, list | dict)}
    return Settled(
        recipe=recipe, note="; ".join(notes), tried=tried, refused=refused, first_try=figures
    )


def race(
    candidates: dict[str, Any], trials: Trials, twice: bool
) -> tuple[dict[str, float | None], dict[str, Outcome], dict[str, dict]]:
    """Rates of those that passed the rung's probe and the equivalence check, the others, and what
    the first good try of each measured.

    `twice`, for CPUs, if the headline is timed: the second time in the opposite order, and
    the better rate counts: what else the machine does makes a window slower, never faster. An
    accelerator has no neighbours, and a process there compiles for half a minute: once. Who has
    passed is not checked again, and who is out, unless for a disturbance, is not tried again.
    """
    tried: dict[str, float | None] = dict.fromkeys(candidates)
    out: dict[str, Outcome] = {}
    first: dict[str, dict] = {}
    for label in (*candidates, *(reversed(candidates) if twice else ())):
        if label in out and out[label].status != "disturbed":
            continue
        passed = tried[label] is not None
        outcome = trials.attempt(candidates[label], label, check=not passed)
        if outcome.status == "ok":
            tried[label] = max(trials.workload.rate(vars(outcome)), tried[label] or 0.0)
            first.setdefault(label, outcome.measurement)
            out.pop(label, None)
        elif not passed:
            out[label] = outcome
    return tried, out, first


def best(tried: dict[str, float | None], workload: Workload) -> str:
    """The label of the highest rate, None: not measured; of those near it, the one named first."""
    enough = (1 - workload.near) * max(rate or 0.0 for rate in tried.values())
    return next(label for label, rate in tried.items() if (rate or 0.0) >= enough)


def in_words(tried: dict[str, float | None], failed: dict[str, Outcome], headline: Metric) -> str:
    return "tried: " + ", ".join(
        f"{label} {headline.text(1 / rate if headline.better == LOWER else rate)}"
        if rate
        else f"{label} {IN_WORDS.get(failed[label].status, failed[label].status)}"
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

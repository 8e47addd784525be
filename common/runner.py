"""Climb a ladder: every prefix of it in a fresh process, one record per rung and round.

The runner knows nothing about training. It composes recipes, starts children, and writes down what
they say. A rung that does not apply, fails, or runs out of time or memory costs its own row: its
change is not carried up, and the climb goes on.
"""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from common.device import DeviceFacts
from common.display import Display
from common.ladder import Ladder
from common.largest_batch import find_largest, needs_search
from common.machine import command_line, commit_facts, machine_facts, version_facts
from common.measure import Settings
from common.process import Outcome, run_job
from common.recipe import Recipe
from common.records import SCHEMA, Records


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure and how."""

    ladder: Ladder
    baseline: Recipe
    device: DeviceFacts
    settings: Settings
    numbers: tuple[int, ...]  # the rungs to measure
    preset: str
    timeout: float  # seconds for one child
    search_s: float  # seconds for the search of the largest batch, on a CPU
    windows: int  # in the training text


class Climb:
    """One run of a ladder. `run` may be interrupted at any moment; what is recorded stays."""

    def __init__(self, plan: Plan, records: Records, display: Display) -> None:
        self.plan, self.records, self.display = plan, records, display
        self.dropped: set[int] = set()  # rungs whose change is not carried up
        self.found_batch: int | None = None
        self.child_s = 0.0  # seconds in children, for the runner's own share
        now = datetime.now(UTC)
        self.facts = {
            "schema": SCHEMA,
            "run_id": now.strftime("%Y%m%dT%H%M%S.%fZ"),
            "date": now.date().isoformat(),
            "ladder": plan.ladder.name,
            "preset": plan.preset,
            "command": command_line(),
            "machine": machine_facts(plan.device),
            "versions": version_facts(),
            **commit_facts(),
            "settings": plan.settings.to_json(),
        }

    def run(self) -> None:
        for number in range(self.plan.ladder.top + 1):
            if number in self.plan.numbers:
                self.display.begin(number, self.plan.ladder.title(number))
                record = self.measure(number)
                self.records.append(record)
                self.display.finish(record)
            elif number and self.refusal(number):
                self.dropped.add(number)

    def refusal(self, number: int) -> str | None:
        """Why the rung does not apply on top of the rungs below it, or None."""
        below = self.plan.ladder.compose(self.plan.baseline, self.carried(number))
        return self.plan.ladder.rung(number).applies(self.plan.device, below)

    def carried(self, number: int) -> list[int]:
        """The rungs below `number` whose changes are in effect there."""
        return [rung for rung in range(1, number) if rung not in self.dropped]

    def measure(self, number: int) -> dict:
        """One rung, once: its record."""
        if number and (reason := self.refusal(number)):
            self.dropped.add(number)
            return self.record(number, self.carried(number), status="n/a", reason=reason)
        applied = self.carried(number) + ([number] if number else [])
        recipe, note = self.resolve(self.plan.ladder.compose(self.plan.baseline, applied), applied)
        job = {
            "ladder": self.plan.ladder.name,
            "applied": applied,
            "recipe": recipe.to_json(),
            "settings": self.plan.settings.to_json(),
        }
        outcome = self.child(job)
        if outcome.status != "ok" and number:
            self.dropped.add(number)
        return self.record(number, applied, recipe=recipe, outcome=outcome, note=note)

    def resolve(self, recipe: Recipe, applied: list[int]) -> tuple[Recipe, str]:
        """The recipe with LARGEST replaced by the batch that a search finds, and what ended it."""
        if not needs_search(recipe):
            return recipe, ""
        note = ""
        if self.found_batch is None:
            begin = time.perf_counter()
            found = find_largest(
                recipe,
                self.plan.ladder.compose(self.plan.baseline, applied[:-1]).batch_size,
                self.plan.settings,
                windows=self.plan.windows,
                seconds=self.plan.search_s,
                timeout=self.plan.timeout,
                report=self.display.phase,
            )
            self.child_s += time.perf_counter() - begin
            self.found_batch, note = found.batch_size, f"search ended at {found.why}"
        return replace(recipe, batch_size=self.found_batch), note

    def child(self, job: dict) -> Outcome:
        outcome = run_job(job, self.plan.timeout, self.display.phase)
        self.child_s += outcome.wall_s
        return outcome

    def record(
        self,
        number: int,
        applied: list[int],
        *,
        recipe: Recipe | None = None,
        outcome: Outcome | None = None,
        status: str = "",
        reason: str = "",
        note: str = "",
    ) -> dict:
        """The line that is written for one rung."""
        return self.facts | {
            "rung": number,
            "name": self.plan.ladder.title(number),
            "status": outcome.status if outcome else status,
            "reason": outcome.reason if outcome else reason,
            "note": note,
            "applied": applied,
            "recipe": recipe.to_json() if recipe else None,
            "numerics": self.plan.ladder.rung(number).NUMERICS.value if number else "reference",
            "flops_per_token": self.plan.settings.shape.flops_per_token(),
            "peak_flops": self.plan.device.peak_flops(recipe) if recipe else None,
            "wall_s": outcome.wall_s if outcome else 0.0,
            "measurement": outcome.measurement if outcome else {},
        }

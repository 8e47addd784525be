"""Climb a ladder: every rung on top of those below it, in a fresh process each time.

The climb knows nothing of what is measured. It composes recipes, starts children, and writes down
what they say, one record per rung and round. A rung that does not apply, fails, or runs out of time
or memory costs its own row: its change is not carried up, and the climb goes on.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from common.engine import facts
from common.engine.children import Children, Display
from common.engine.job import Job
from common.engine.kept import kept, recalled
from common.engine.looks import Looks
from common.engine.plan import LADDER, TWIN, Combination, Plan
from common.engine.process import Outcome
from common.engine.records import Records
from common.engine.settle import Settled, Trials, Unsettled, best, settle
from common.engine.stack import Stack

SPENT = ("ceilings", "refuser", "note")  # fields of an outcome that stand elsewhere in a record


@dataclass
class Climb:
    """One run of a ladder. `run` may be interrupted at any moment; what is recorded stays."""

    plan: Plan
    records: Records
    display: Display
    closed: dict[tuple[int, ...], Any] = field(default_factory=dict)  # recipes, by applied rungs
    known: list[dict] = field(default_factory=list)  # records kept or made
    done: dict[tuple[int, str, int], dict] = field(default_factory=dict)  # by round, series, rung

    def __post_init__(self) -> None:
        plan = self.plan
        self.stack, self.workload = Stack(plan), plan.ladder.workload
        self.children = Children(plan, self.display)
        self.run_facts = facts.of_run(plan)
        self.facts = facts.of_measurements(plan, self.children.gpu.facts())
        self.ceilings: dict = {}
        self.twin: int | None = None  # the rung that takes part twice, where turns are taken

    def resume(self) -> int:
        """Keep what the file's last run has measured under the same facts. Returns how many."""
        for record in kept(self.records, self.facts, self.workload, bool(self.plan.turns)):
            self.run_facts["run_id"] = record["run_id"]
            self.ceilings = record["ceilings"]
            self.remember(record)
        return len(self.done)

    def run(self) -> None:
        if self.workload.measures_ceilings and not self.ceilings:
            self.measure_ceilings()
        if self.plan.turns:
            Looks(self, self.plan.turns).run()
            return
        for turn, series, number in self.plan.schedule():
            self.display.begin(turn, series, number, self.plan.ladder.title(number))
            record = self.done.get((turn, series, number))
            if record is None or not self.recall(record):
                record = self.measure(turn, series, number)
                if record is None:
                    self.display.skip()
                    continue
                self.append(record)
            self.display.finish(record)

    def append(self, record: dict) -> None:
        self.records.append(record)
        self.remember(record)

    def remember(self, record: dict) -> None:
        self.known.append(record)
        self.done[record["round"], record["series"], record["rung"]] = record

    def measure_ceilings(self) -> None:
        """The device's best, once per run; without it the columns that need it stay empty."""
        self.display.phase("measuring the ceilings")
        plan = self.plan
        job = Job(
            workload=self.workload, kind="ceilings", recipe=plan.baseline, settings=plan.settings
        )
        self.ceilings = self.children.run(job).ceilings

    def recall(self, record: dict) -> bool:
        """Take over what a kept record decided. Whether it still stands."""
        key = (record["series"], record["rung"])
        found = recalled(record, self.stack, self.workload)
        if found is None:
            del self.done[record["round"], *key]
            return False
        self.stack.combinations[key] = found
        if record["series"] == LADDER and found.recipe is None:
            self.stack.dropped[record["rung"]] = record["reason"]
        if found.recipe and record["searched"]:
            self.closed[tuple(found.applied)] = found.recipe
        return True

    def measure(self, turn: int, series: str, number: int) -> dict | None:
        """One rung, once: its record. None where an earlier round already said all there is."""
        combination = self.combination(series, number)
        if combination is None:
            return None
        if combination.recipe is None:
            return self.record(turn, series, number, combination)
        outcome, discarded = self.settled(series, number, combination), []
        if outcome is None:
            job = self.job(turn, series, number, combination)
            outcome, discarded = self.children.undisturbed(job)
        if self.stack.leave_out(outcome, series, number):
            del self.stack.combinations[series, number]
            return self.measure(turn, series, number)
        return self.conclude(turn, series, number, combination, outcome, discarded)

    def combination(self, series: str, number: int) -> Combination | None:
        """What to measure there; None where an earlier round already said why nothing is."""
        known = self.stack.combinations
        if (series, number) not in known:
            known[series, number] = self.stack.compose(series, number)
            return known[series, number]
        return known[series, number] if known[series, number].recipe is not None else None

    def conclude(
        self,
        turn: int,
        series: str,
        number: int,
        combination: Combination,
        outcome: Outcome,
        discarded: list[dict] = (),
    ) -> dict:
        """The record of what came of it. What is not well is not tried again in later rounds."""
        record = self.record(turn, series, number, combination, outcome, discarded)
        combination.checked = combination.checked or outcome.status == "ok"
        if outcome.status != "ok" and series != TWIN:
            combination.recipe = None
            combination.status, combination.reason = outcome.status, outcome.reason
            if series == LADDER and number > 0:
                self.stack.dropped[number] = outcome.reason
        return record

    def settled(self, series: str, number: int, combination: Combination) -> Outcome | None:
        """Settle what the combination leaves open; what came of it where nothing can be kept."""
        try:
            if not combination.settled:
                self.settle(series, number, combination)
        except Unsettled as error:
            combination.recipe = None
            combination.candidates, combination.refused = error.tried, error.refused
            return replace(error.outcome, reason=str(error))
        return None

    def job(
        self, turn: int, series: str, number: int, combination: Combination, turns: bool = False
    ) -> Job:
        """For a fresh process. The first one of a rung also checks it."""
        unchecked = not combination.checked
        return Job(
            workload=self.workload,
            recipe=combination.recipe,
            settings=self.plan.settings_of(turn, series, number),
            ladder=self.plan.ladder.address,
            applied=tuple(combination.applied),
            under=self.stack.under(number),
            check=self.stack.check(series, number, combination) if unchecked else None,
            turns=turns,
        )

    def candidates(self, series: str, number: int, combination: Combination) -> dict[str, Any]:
        if series != LADDER or number == 0:
            return {}
        below = self.stack.composed(combination.applied[:-1])
        return self.plan.ladder.rung(number).candidates(self.plan.device, below)

    def settle(self, series: str, number: int, combination: Combination) -> None:
        """Close what the combination's recipe leaves open, once.

        The full stack without one rung takes over what was found for the full stack: only one
        thing may differ.
        """
        applied = tuple(combination.applied)
        full = next((r for key, r in self.closed.items() if set(applied) < set(key)), None)
        if known := self.closed.get(applied, full):
            combination.recipe = self.workload.closed_as(combination.recipe, known)
        candidates = self.candidates(series, number, combination)
        trials = Trials(
            workload=self.workload,
            settings=self.plan.settings,
            run=self.children.run,
            tell=self.display.phase,
            ladder=self.plan.ladder.address,
            applied=applied,
            under=self.stack.under(number),
            check=self.stack.check(series, number, combination),
        )
        self.take(number, combination, settle(combination.recipe, candidates, trials, self.plan))

    def take(self, number: int, combination: Combination, found: Settled) -> None:
        """Use and remember what was found."""
        if self.workload.is_open(combination.recipe):
            self.closed[tuple(combination.applied)] = found.recipe
        if found.tried:
            self.stack.chosen[number] = best(found.tried, self.workload)
        combination.recipe, combination.note = found.recipe, found.note
        combination.candidates, combination.refused = found.tried, found.refused
        combination.first_try, combination.settled = found.first_try, True

    def record(
        self,
        turn: int,
        series: str,
        number: int,
        combination: Combination,
        outcome: Outcome | None = None,
        discarded: list[dict] = (),
    ) -> dict:
        """The line that is written for one rung and round."""
        plan, recipe = self.plan, combination.recipe
        outcome = outcome or Outcome(
            status=combination.status, reason=combination.reason, wall_s=0.0
        )
        again = self.children.disturbed(outcome) if discarded else None
        lacking = outcome.measurement.get("lacking")
        notes = (combination.note, again and f"disturbed: {again}", outcome.note, lacking)
        about = self.workload.record_facts(recipe, plan.settings, plan.device)
        return {
            **self.facts,
            **self.run_facts,
            "rung": number,
            "round": turn,
            "series": series,
            "name": plan.ladder.title(number),
            "base": plan.ladder.rung(number).base if number > 0 else None,
            "note": "; ".join(filter(None, notes)),
            "under": list(self.stack.under(number)),
            "applied": combination.applied,
            "recipe": self.workload.dump(recipe) if recipe else None,
            "searched": tuple(combination.applied) in self.closed,
            "candidates": combination.candidates,  # rates, if there were any
            "refused": combination.refused,
            "first_try": combination.first_try,
            "numerics": plan.ladder.numerics(number).value,
            **about,
            "ceilings": self.ceilings,
            "discarded": list(discarded),
            **{k: v for k, v in asdict(outcome).items() if k not in SPENT},
            "log": outcome.log_end(),
        }

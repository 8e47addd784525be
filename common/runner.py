"""Climb a ladder: every prefix of it in a fresh process, one record per rung and round.

The runner knows nothing about training. It composes recipes, starts children, and writes down what
they say. A rung that does not apply, fails, or runs out of time or memory costs its own row: its
change is not carried up, and the climb goes on.
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from common.display import Display
from common.engine.records import SCHEMA, Records
from common.gpu_watch import GpuWatch, disturbance
from common.job import Job
from common.machine import command_line, commit_facts, machine_facts, version_facts
from common.plan import LADDER, Plan, Prefix
from common.process import Outcome, run_job
from common.recipe import Recipe
from common.settle import Settled, Trials, Unsettled, best, needs_search, settle
from common.stack import Stack
from common.train_metrics import tok_per_s
from common.watch import DeviceWatch, cpu_disturbance

KEPT = ("ok", "n/a")  # statuses that --resume does not measure again


@dataclass
class Climb:
    """One run of a ladder. `run` may be interrupted at any moment; what is recorded stays."""

    plan: Plan
    records: Records
    display: Display
    batches: dict[tuple[int, ...], int] = field(default_factory=dict)  # found, by applied rungs
    done: dict[tuple[int, str, int], dict] = field(default_factory=dict)  # records kept or made
    child_s: float = 0.0  # seconds in children, for the runner's own share

    def __post_init__(self) -> None:
        plan = self.plan
        self.stack = Stack(plan)
        self.gpu = GpuWatch(plan.device.type, plan.device.name)
        now = datetime.now(UTC)
        self.run_facts = {
            "run_id": now.strftime("%Y%m%dT%H%M%S.%fZ"),
            "date": now.date().isoformat(),
            "command": command_line(),
        }
        self.facts = {  # a record is kept by --resume only where all of these are the same
            "schema": SCHEMA,
            "ladder": plan.ladder.name,
            "preset": plan.preset,
            "baseline": plan.baseline.to_json(),
            "settings": plan.settings.to_json(),
            "machine": machine_facts(plan.device) | self.gpu.facts(),
            "versions": version_facts(),
            **commit_facts(),
        }
        self.ceilings: dict = {}

    def resume(self) -> int:
        """Keep what the file's last run has measured under the same facts. Returns how many."""
        for record in self.records.read():
            if any(record.get(key) != value for key, value in self.facts.items()):
                continue
            if record["status"] in KEPT:
                self.run_facts["run_id"] = record["run_id"]
                self.ceilings = record["ceilings"]
                self.done[record["round"], record["series"], record["rung"]] = record
        return len(self.done)

    def run(self) -> None:
        if not self.ceilings:
            self.measure_ceilings()
        for turn, series, number in self.plan.schedule():
            self.display.begin(turn, series, number, self.plan.ladder.title(number))
            record = self.done.get((turn, series, number))
            if record:
                self.recall(record)
            else:
                record = self.measure(turn, series, number)
                if record is None:
                    self.display.skip()
                    continue
                self.records.append(record)
                self.done[turn, series, number] = record
            self.display.finish(record)

    def recall(self, record: dict) -> None:
        """Take over what a kept record decided."""
        key, applied = (record["series"], record["rung"]), record["applied"]
        measured = record["status"] == "ok"
        recipe = Recipe.from_json(record["recipe"]) if measured else None
        self.stack.prefixes[key] = Prefix(
            applied,
            recipe,
            record["status"],
            record["reason"],
            record["note"],
            record.get("candidates", {}),
            record.get("refused", {}),  # records of before have none
            settled=measured,
        )
        if record["series"] == LADDER and recipe is None:
            self.stack.dropped[record["rung"]] = record["reason"]
        if recipe and record["searched"]:
            self.batches[tuple(applied)] = recipe.batch_size
        if any((tried := self.stack.prefixes[key].candidates).values()):
            self.stack.chosen[record["rung"]] = best(tried)

    def measure(self, turn: int, series: str, number: int) -> dict | None:
        """One rung, once: its record. None where an earlier round already said all there is."""
        if (series, number) not in self.stack.prefixes:
            self.stack.prefixes[series, number] = self.stack.compose(series, number)
        elif self.stack.prefixes[series, number].recipe is None:
            return None
        prefix = self.stack.prefixes[series, number]
        if prefix.recipe is None:
            return self.record(turn, series, number, prefix)
        outcome, discarded = self.outcome(turn, series, number, prefix)
        if self.stack.leave_out(outcome, series, number):
            del self.stack.prefixes[series, number]
            return self.measure(turn, series, number)
        record = self.record(turn, series, number, prefix, outcome, discarded)
        if outcome.status != "ok":
            prefix.recipe = None  # the next rounds need not try it again
            prefix.status, prefix.reason = outcome.status, outcome.reason
            if series == LADDER and number > 0:
                self.stack.dropped[number] = outcome.reason
        return record

    def outcome(
        self, turn: int, series: str, number: int, prefix: Prefix
    ) -> tuple[Outcome, list[dict]]:
        """What came of it, after one more try if it was disturbed, and what was discarded."""
        try:
            if not prefix.settled:
                self.settle(series, number, prefix)
        except Unsettled as error:
            prefix.recipe = None
            prefix.candidates, prefix.refused = error.tried, error.refused
            return replace(error.outcome, reason=str(error)), []
        first = not any((s, n) == (series, number) for _, s, n in self.done)
        job = Job(
            recipe=prefix.recipe,
            settings=self.plan.settings_of(turn, series, number),
            ladder=self.plan.ladder.address,
            applied=tuple(prefix.applied),
            under=self.stack.under(number),
            check=self.stack.check(series, number, prefix) if first else None,
        )
        return self.undisturbed(job.to_json())

    def settle(self, series: str, number: int, prefix: Prefix) -> None:
        """Close what the prefix's recipe leaves open, once.

        The full stack without one rung keeps the full stack's batch: only one thing may differ.
        """
        plan, applied = self.plan, tuple(prefix.applied)
        full = next((b for k, b in self.batches.items() if set(applied) < set(k)), None)
        if needs_search(prefix.recipe) and (known := self.batches.get(applied, full)):
            prefix.recipe = replace(prefix.recipe, batch_size=known)
        candidates = {}
        if series == LADDER:
            below = self.stack.composed(prefix.applied[:-1])
            candidates = plan.ladder.candidates(number, plan.device, below)
        found = settle(
            prefix.recipe,
            candidates,
            Trials(
                settings=plan.settings,
                run=self.child,
                report=self.display.phase,
                ladder=plan.ladder.address,
                applied=applied,
                under=self.stack.under(number),
                check=self.stack.check(series, number, prefix),
            ),
            rate=lambda outcome: tok_per_s(vars(outcome)),
            twice=plan.device.type == "cpu",
            start=plan.baseline.batch_size,
            seconds=plan.search_s,
            device_gib=plan.device.memory_gib,
        )
        self.take(number, prefix, found)

    def take(self, number: int, prefix: Prefix, found: Settled) -> None:
        """Use and remember what was found."""
        if needs_search(prefix.recipe):
            self.batches[tuple(prefix.applied)] = found.recipe.batch_size
        if found.tried:
            self.stack.chosen[number] = best(found.tried)
        prefix.recipe, prefix.note, prefix.settled = found.recipe, found.note, True
        prefix.candidates, prefix.refused = found.tried, found.refused

    def undisturbed(self, job: dict) -> tuple[Outcome, list[dict]]:
        """The job's outcome, after one more try if its window was disturbed.

        Also what was discarded: reason and measurement of the first try.
        """
        outcome = self.child(job)
        reason = self.disturbed(outcome)
        if reason is None:
            return outcome, []
        self.display.phase(f"again: {reason}")
        discarded = [
            {"reason": reason, "measurement": outcome.measurement, "log": outcome.log_end()}
        ]
        outcome = self.child(job)
        if outcome.status == "disturbed":
            outcome.status = "failed"
            outcome.reason = f"disturbed twice: {outcome.reason}"
        return outcome, discarded

    def disturbed(self, outcome: Outcome) -> str | None:
        if outcome.status == "disturbed":
            return outcome.reason
        if outcome.status != "ok":
            return None
        if self.plan.device.type == "cpu":
            return cpu_disturbance(outcome.window, outcome.measurement.get("cpu_share"))
        return disturbance(outcome.window)

    def child(self, job: dict) -> Outcome:
        outcome = run_job(job, self.plan.timeout, self.display.phase, DeviceWatch(self.gpu))
        self.child_s += outcome.wall_s
        return outcome

    def measure_ceilings(self) -> None:
        """The device's best, once per run; without it the column stays empty."""
        self.display.phase("measuring the ceilings")
        plan, formats = self.plan, ["float32"]
        if plan.device.vendor == "nvidia" and plan.device.capability >= (8, 0):
            formats.append("tf32")
        if plan.device.native_bf16:
            formats.append("bfloat16")
        job = Job(
            kind="ceilings",
            recipe=plan.baseline,
            settings=plan.settings,
            formats=tuple(formats),
        )
        self.ceilings = self.child(job.to_json()).ceilings

    def record(
        self,
        turn: int,
        series: str,
        number: int,
        prefix: Prefix,
        outcome: Outcome | None = None,
        discarded: list[dict] = (),
    ) -> dict:
        """The line that is written for one rung and round."""
        plan, recipe = self.plan, prefix.recipe
        outcome = outcome or Outcome(status=prefix.status, reason=prefix.reason, wall_s=0.0)
        again = self.disturbed(outcome) if discarded else None
        no_profile = outcome.measurement.get("profile_failed")
        notes = (prefix.note, again and f"disturbed: {again}", no_profile)
        return (
            self.facts
            | self.run_facts
            | {
                "rung": number,
                "round": turn,
                "series": series,
                "name": plan.ladder.title(number),
                "base": plan.ladder.base(number) if number > 0 else None,
                "note": "; ".join(filter(None, notes)),
                "under": list(self.stack.under(number)),
                "applied": prefix.applied,
                "recipe": recipe.to_json() if recipe else None,
                "searched": tuple(prefix.applied) in self.batches,
                "candidates": prefix.candidates,  # tokens per second of each, if there were any
                "refused": prefix.refused,
                "format": recipe.format if recipe else None,
                "numerics": plan.ladder.numerics(number).value,
                "flops_per_token": plan.settings.shape.flops_per_token(),
                "peak_flops": plan.device.peak_flops(recipe) if recipe else None,
                "processes": recipe.processes if recipe else None,
                "ceilings": self.ceilings,
                "discarded": list(discarded),
            }
            | {k: v for k, v in asdict(outcome).items() if k not in ("ceilings", "refuser")}
            | {"log": outcome.log_end()}
        )

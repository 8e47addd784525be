"""Climb a ladder: every prefix of it in a fresh process, one record per rung and round.

The runner knows nothing about training. It composes recipes, starts children, and writes down what
they say. A rung that does not apply, fails, or runs out of time or memory costs its own row: its
change is not carried up, and the climb goes on.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from common.display import Display
from common.engine.rungs import REFERENCE
from common.gpu_watch import GpuWatch, disturbance
from common.largest_batch import SearchFailed, find_largest, needs_search
from common.machine import command_line, commit_facts, machine_facts, version_facts
from common.plan import ALONE, LADDER, WITHOUT, Plan, Prefix
from common.process import Outcome, run_job
from common.recipe import Numerics, Recipe
from common.records import SCHEMA, Records
from common.train_metrics import tok_per_s
from common.watch import DeviceWatch, cpu_disturbance

KEPT = ("ok", "n/a")  # statuses that --resume does not measure again


CLOSE = 0.03  # a candidate's advantage over an earlier one that is no reason to prefer it


def best(candidates: dict[str, float | None]) -> str:
    """The label of the highest rate, None: not measured; of those near it, the one named first."""
    enough = (1 - CLOSE) * max(rate or 0.0 for rate in candidates.values())
    return next(label for label, rate in candidates.items() if (rate or 0.0) >= enough)


@dataclass
class Climb:
    """One run of a ladder. `run` may be interrupted at any moment; what is recorded stays."""

    plan: Plan
    records: Records
    display: Display
    dropped: set[int] = field(default_factory=set)  # rungs whose change is not carried up
    prefixes: dict[tuple[str, int], Prefix] = field(default_factory=dict)
    batches: dict[tuple[int, ...], int] = field(default_factory=dict)  # found, by applied rungs
    chosen: dict[int, str] = field(default_factory=dict)  # among a rung's candidates, by rung
    done: dict[tuple[int, str, int], dict] = field(default_factory=dict)  # records kept or made
    child_s: float = 0.0  # seconds in children, for the runner's own share

    def __post_init__(self) -> None:
        plan = self.plan
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
        self.prefixes[key] = Prefix(
            applied, recipe, record["status"], record["reason"], record["note"]
        )
        if record["series"] == LADDER and recipe is None:
            self.dropped.add(record["rung"])
        if recipe and record["searched"]:
            self.batches[tuple(applied)] = recipe.batch_size
        if tried := record.get("candidates"):
            self.prefixes[key].candidates = tried
            self.chosen[record["rung"]] = best(tried)

    def measure(self, turn: int, series: str, number: int) -> dict | None:
        """One rung, once: its record. None where an earlier round already said all there is."""
        if (series, number) not in self.prefixes:
            self.prefixes[series, number] = self.compose(series, number)
        elif self.prefixes[series, number].recipe is None:
            return None
        prefix = self.prefixes[series, number]
        if prefix.recipe is None:
            return self.record(turn, series, number, prefix)
        try:
            prefix.recipe = self.resolve(prefix)
        except SearchFailed as error:
            prefix.recipe, discarded = None, []
            outcome = replace(error.outcome, reason=str(error))
        else:
            if series == LADDER and number not in self.chosen:
                self.choose(number, prefix)
            outcome, discarded = self.undisturbed(self.job(turn, series, number, prefix))
        record = self.record(turn, series, number, prefix, outcome, discarded)
        if outcome.status != "ok":
            prefix.recipe = None  # the next rounds need not try it again
            prefix.status, prefix.reason = outcome.status, outcome.reason
            if series == LADDER and number > 0:
                self.dropped.add(number)
        return record

    def compose(self, series: str, number: int) -> Prefix:
        """Which rungs to apply, checking each against the ones below it."""
        ladder = self.plan.ladder
        if number == REFERENCE:
            return Prefix([], self.plan.reference)
        if series == WITHOUT and number in self.dropped:
            reason = self.prefixes[LADDER, number].reason or "the rung did not run in order"
            return Prefix([], status="n/a", reason=reason)
        if series == LADDER and number and ladder.named_base(number) in self.dropped:
            self.dropped.add(number)
            base = ladder.base(number)
            told = self.prefixes.get((LADDER, base))
            reason = f"it adds to rung {base}: {told.reason if told else 'that does not apply'}"
            return Prefix([], status="n/a", reason=reason)
        below = [n for n in range(1, ladder.top + 1) if n not in self.dropped]
        wanted = {
            LADDER: [n for n in ladder.chain(number) if n == number or n not in self.dropped],
            ALONE: [number],
            WITHOUT: [n for n in below if n != number],
        }[series]
        applied = []
        for candidate in wanted:
            recipe = self.composed(applied)
            reason = ladder.rung(candidate).applies(self.plan.device, recipe)
            if reason and candidate != number:
                if series == LADDER:  # it was not asked to be measured, so nothing dropped it yet
                    self.dropped.add(candidate)
                    continue
                reason = f"then rung {candidate} does not apply: {reason}"
            if reason:
                if series == LADDER:
                    self.dropped.add(number)
                return Prefix(applied, status="n/a", reason=reason)
            applied.append(candidate)
        return Prefix(applied, self.composed(applied))

    def composed(self, numbers: list[int]) -> Recipe:
        """The baseline with the rungs' changes, and among their candidates what was chosen."""
        recipe = self.plan.baseline
        for number in sorted(n for n in numbers if n):
            rung = self.plan.ladder.rung(number)
            if number in self.chosen:
                recipe = rung.candidates(self.plan.device, recipe)[self.chosen[number]]
            else:
                recipe = rung.apply(recipe)
        return recipe

    def choose(self, number: int, prefix: Prefix) -> None:
        """Measure what a rung leaves open, a process for each, and take the fastest.

        On a CPU each is measured twice, the second time in the opposite order, and its better rate
        counts: what else the machine does makes a window slower, never faster. An accelerator has
        no neighbours, and a process there compiles for half a minute: once. Where none could be
        measured the rung's own first choice stays, and its row says what fails.
        """
        rung = self.plan.ladder.rung(number) if number > 0 else None
        if not hasattr(rung, "candidates"):
            return
        settings, device = self.plan.settings, self.plan.device
        few = replace(settings, warmup=2)
        candidates = rung.candidates(device, self.composed(prefix.applied[:-1]))
        if len(candidates) < 2:
            return
        prefix.candidates = dict.fromkeys(candidates)
        again = reversed(candidates) if device.type == "cpu" else ()
        for label in (*candidates, *again):
            self.display.phase(f"trying {label}")
            recipe = candidates[label].to_json()
            job = {"kind": "rung", "ladder": "", "applied": [], "recipe": recipe}
            outcome = self.child(job | {"settings": few.to_json()})
            if outcome.status == "ok":
                rate = tok_per_s(vars(outcome))
                prefix.candidates[label] = max(rate, prefix.candidates[label] or 0.0)
        if any(prefix.candidates.values()):
            self.chosen[number] = best(prefix.candidates)
            prefix.recipe = candidates[self.chosen[number]]
            prefix.note = "tried: " + ", ".join(
                f"{label} {rate:,.0f}" if rate else f"{label} failed"
                for label, rate in prefix.candidates.items()
            )

    def resolve(self, prefix: Prefix) -> Recipe:
        """The recipe with LARGEST replaced by the batch that a search finds.

        The full stack without one rung keeps the full stack's batch: only one thing may differ.
        """
        if not needs_search(prefix.recipe):
            return prefix.recipe
        applied = tuple(prefix.applied)
        full = next((b for k, b in self.batches.items() if set(applied) < set(k)), None)
        if applied not in self.batches and full is None:
            begin = time.perf_counter()
            found = find_largest(
                prefix.recipe,
                self.plan.baseline.batch_size,
                self.plan.settings,
                device_gib=self.plan.device.memory_gib,
                seconds=self.plan.search_s,
                timeout=self.plan.timeout,
                report=self.display.phase,
            )
            self.child_s += time.perf_counter() - begin
            self.batches[applied] = found.batch_size
            prefix.note = f"search ended at {found.why}"
        return replace(prefix.recipe, batch_size=self.batches.get(applied, full))

    def job(self, turn: int, series: str, number: int, prefix: Prefix) -> dict:
        """The child's task; with the equivalence check the first time."""
        job = {
            "kind": "rung",
            "ladder": self.plan.ladder.address,
            "under": self.under(number),
            "applied": prefix.applied,
            "recipe": prefix.recipe.to_json(),
            "settings": self.plan.settings_of(turn, series, number).to_json(),
        }
        if not any((s, n) == (series, number) for _, s, n in self.done):
            below = self.composed([n for n in prefix.applied if n != number])
            job["check"] = {
                "baseline": self.plan.reference.to_json(),
                "below": below.to_json(),
                "numerics": self.claim(series, number).value,
            }
        return job

    def claim(self, series: str, number: int) -> Numerics:
        """What the job's recipe is held to: without a rung, to the formats' limit."""
        return Numerics.LOWER_PRECISION if series == WITHOUT else self.plan.ladder.numerics(number)

    def under(self, number: int) -> list[str]:
        """The rungs of another ladder that are in this one's recipe."""
        return [] if number == REFERENCE else list(self.plan.under)

    def undisturbed(self, job: dict) -> tuple[Outcome, list[dict]]:
        """The job's outcome, after one more try if its window was disturbed.

        Also what was discarded: reason and measurement of the first try.
        """
        outcome = self.child(job)
        reason = self.disturbed(outcome)
        if reason is None:
            return outcome, []
        self.display.phase(f"again: {reason}")
        discarded = [{"reason": reason, "measurement": outcome.measurement}]
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
        job = {
            "kind": "ceilings",
            "recipe": plan.baseline.to_json(),
            "settings": plan.settings.to_json(),
            "formats": formats,
        }
        self.ceilings = self.child(job).ceilings

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
                "under": self.under(number),
                "applied": prefix.applied,
                "recipe": recipe.to_json() if recipe else None,
                "searched": tuple(prefix.applied) in self.batches,
                "candidates": prefix.candidates,  # tokens per second of each, if there were any
                "format": recipe.format if recipe else None,
                "numerics": plan.ladder.numerics(number).value,
                "flops_per_token": plan.settings.shape.flops_per_token(),
                "peak_flops": plan.device.peak_flops(recipe) if recipe else None,
                "processes": recipe.processes if recipe else None,
                "ceilings": self.ceilings,
                "discarded": list(discarded),
            }
            | {k: v for k, v in asdict(outcome).items() if k not in ("log", "ceilings")}
        )

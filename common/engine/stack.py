"""Which rungs stand below one that is measured, given what was dropped and chosen so far."""

from dataclasses import dataclass, field, replace

from common.engine.contract import SKIPPED, Numerics
from common.engine.job import Against
from common.engine.plan import ALONE, LADDER, WITHOUT, Combination, Plan
from common.engine.process import Outcome
from common.engine.rungs import REFERENCE


@dataclass
class Stack:
    """What a climb has learned about the rungs, and the recipes that follow from it."""

    plan: Plan
    # by series and rung
    combinations: dict[tuple[str, int], Combination] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)  # rungs not carried up, and why
    chosen: dict[int, str] = field(default_factory=dict)  # among a rung's candidates, by rung

    def copy(self) -> "Stack":
        """One that may learn what this one does not."""
        return replace(self, combinations={**self.combinations}, dropped={**self.dropped})

    def compose(self, series: str, number: int) -> Combination:
        """Which rungs to apply, checking each against the ones below it."""
        ladder = self.plan.ladder
        if number == REFERENCE:
            return Combination([], self.plan.reference)
        if series == WITHOUT and number in self.dropped:
            reason = self.combinations[LADDER, number].reason or "the rung did not run in order"
            return Combination([], status=SKIPPED, reason=reason)
        if series == LADDER and number and ladder.rung(number).named_base in self.dropped:
            base = ladder.rung(number).base
            reason = f"it adds to rung {base}: {self.dropped[base]}"
            self.dropped[number] = reason
            return Combination([], status=SKIPPED, reason=reason)
        below = [n for n in ladder.stair if n not in self.dropped]
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
                    self.dropped[candidate] = reason
                    continue
                reason = f"then rung {candidate} does not apply: {reason}"
            if reason:
                if series == LADDER:
                    self.dropped[number] = reason
                return Combination(applied, status=SKIPPED, reason=reason)
            applied.append(candidate)
        return Combination(applied, self.composed(applied))

    def composed(self, numbers: list[int]):
        """The baseline with the rungs' changes, and among their candidates what was chosen."""
        recipe = self.plan.baseline
        for number in sorted(n for n in numbers if n > 0):
            rung = self.plan.ladder.rung(number)
            if number in self.chosen:
                recipe = rung.candidates(self.plan.device, recipe)[self.chosen[number]]
            else:
                recipe = rung.apply(recipe)
        return recipe

    def leave_out(self, outcome: Outcome, series: str, number: int) -> bool:
        """Drop the rung that refuses, if it is not the one asked for. Whether it was.

        What only a child can refuse is not known where that rung was not measured itself. Where it
        was and acted, or where the stack is given, the refusal is of this combination.
        """
        refuser = outcome.refuser
        if refuser in (None, number):
            return False
        known = self.combinations.get((LADDER, refuser))
        if series != LADDER or (known and known.recipe):
            outcome.reason = f"then rung {refuser} does not apply: {outcome.reason}"
            return False
        self.dropped[refuser] = outcome.reason
        return True

    def check(self, series: str, number: int, combination: Combination) -> Against:
        """What the rung's recipes are compared with, and held to.

        A stack without one of its rungs has no rung of its own: it is held to the formats' limit.
        """
        declared = self.plan.ladder.numerics(number)
        return Against(
            baseline=self.plan.reference,
            below=self.composed([n for n in combination.applied if n != number]),
            numerics=Numerics.LOWER_PRECISION if series == WITHOUT else declared,
        )

    def under(self, number: int) -> tuple[str, ...]:
        """The rungs of another ladder that are in this one's recipe."""
        return () if number == REFERENCE else tuple(self.plan.under)

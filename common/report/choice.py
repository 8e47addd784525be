"""Which rungs of a run to turn on: those whose own gain was told, on the way to the best one."""

import math
from dataclasses import dataclass
from functools import cached_property

from common.engine.contract import SKIPPED
from common.engine.gains import Gains
from common.engine.ladder import Ladder
from common.engine.metric import EXACT, LOWER
from common.engine.plan import LADDER
from common.engine.stats import Estimate, is_open
from common.report.ending import FAINT, missing, sign
from common.report.frame import to_frame
from common.report.page_lesson import rung_of

# why rungs are not recommended
KINDS = (
    *("barred", "undone", "elsewhere", "regained", "untold", "same", "lost"),
    *("skipped", "failed"),
)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How many times as good, with its 95 % interval; the ends of what is counted are NaN."""

    times: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Turned:
    """A rung to turn on."""

    row: dict
    over: dict  # the row that it gains over
    gain: Gain | None  # None: the headline stays, and the purpose's second metric is better


class Choice:
    """What one run of a ladder recommends; what was not told is not recommended."""

    def __init__(self, records: list[dict], ladder: Ladder) -> None:
        self.ladder, self.workload, self.purpose = ladder, ladder.workload, ladder.purpose
        self.frame = to_frame(records, self.workload)
        self.rows = {row["rung"]: row for row in self.frame.to_dict("records")}
        self.gains = Gains(records, self.workload.headline)
        self.below, self.base = self.gains.over_below(), self.gains.over_baseline()
        named = (m for m in self.workload.metrics if m.name == self.purpose.second)
        self.second = next(named, None)

    @cached_property
    def better(self) -> list[dict]:
        """The rungs that were told to be better than the baseline, the best first."""
        found = [
            row
            for row in self.rows.values()
            if row["rung"] > 0 and over_base(row) > 0 and not self.barred(row)
        ]
        return sorted(found, key=lambda row: (-row["x_base"], self.rank(row)))

    @cached_property
    def best(self) -> dict | None:
        """The first of them; of those that are counted as equal the one with the better second."""
        first = next(iter(self.better), None)
        if not first or self.workload.headline.noise != EXACT:
            return first
        least = first["x_base"] * (1 - FAINT)
        return min((row for row in self.better if row["x_base"] >= least), key=self.rank)

    @cached_property
    def gaining(self) -> list[Turned]:
        """The rungs that gain on the way to the best, from the foot up."""
        found = (self.turned(row) for row in self.chain(self.best))
        return [one for one in found if one]

    @cached_property
    def on(self) -> list[Turned]:
        """The rungs to turn on: without those of which nothing is left in the last one's recipe."""
        return [one for one in self.gaining if not self.undone(one)]

    def undone(self, one: Turned) -> bool:
        """Whether all that a rung changed is back at what it was, by a rung above."""
        rows = (one.over, one.row, self.gaining[-1].row)
        before, own, last = (self.record(row)["recipe"] for row in rows)
        changed = [f for f in self.changes(one.row) if own.get(f) != before.get(f)]
        return bool(changed) and all(last.get(f) == before.get(f) for f in changed)

    def changed_again(self, one: Turned) -> list[str]:
        """The rungs above that change a rung's fields, where it is not looked for at the top."""
        last = self.record(self.on[-1].row)
        if str(one.row["rung"]) in last["measurement"]["in_effect"]:
            return []
        own, number = {*self.changes(one.row)}, one.row["rung"]
        above = (row for row in self.chain(self.on[-1].row) if row["rung"] > number)
        return [row["name"] for row in above if own & {*self.changes(row)}]

    def changes(self, row: dict) -> tuple[str, ...]:
        """The recipe's fields that a rung may touch; none of one that the ladder has no more."""
        rung = rung_of(self.ladder, self.record(row))
        return rung.changes if rung else ()

    def records(self, row: dict) -> list[dict]:
        """A row's records that are well."""
        rows = self.gains.of(LADDER).get(row["rung"], [])
        return [record for record in rows if record["status"] == "ok"]

    def record(self, row: dict) -> dict:
        return self.records(row)[-1]

    @cached_property
    def total(self) -> Gain | None:
        """All of them together, with whatever lies between them, over the baseline."""
        if not self.on:
            return None
        return self.gain(self.gains.estimates(self.base)[self.on[-1].row["rung"]])

    @cached_property
    def others(self) -> list[dict]:
        """Better than the baseline, too, and by the second metric better than all before them."""
        found, least = [], self.rank(self.best) if self.best else 0.0
        for row in self.better:
            if self.rank(row) < least:
                found.append(row)
                least = self.rank(row)
        return found

    @cached_property
    def rest(self) -> dict[str, list[dict]]:
        """The rungs that are not recommended, by why not."""
        found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
        named = {row["rung"] for row in (*(one.row for one in self.on), *self.others)}
        for number, row in self.rows.items():
            if number > 0 and number not in named:
                found[self.kind(row)].append(row)
        return found

    @property
    def absent(self) -> list[str]:
        """The titles of rungs that were not measured."""
        numbers = range(1, self.ladder.top + 1)
        return [self.ladder.title(number) for number in numbers if number not in self.rows]

    def kind(self, row: dict) -> str:
        """Why a rung is not recommended."""
        if row["status"] != "ok":
            return "skipped" if row["status"] == SKIPPED else "failed"
        if self.barred(row) and over_base(row) > 0:
            return "barred"
        if row["rung"] in [one.row["rung"] for one in self.gaining]:
            return "undone"
        if sign(row) > 0:
            return "elsewhere" if self.own_gain(row)[1] else "regained"
        if self.level(row):
            return "same"
        if missing(row["x_prev"]) or is_open(row["verdict"]):
            return "untold"
        return "lost" if sign(row) < 0 else "same"

    def level(self, row: dict) -> bool:
        """Whether a rung's headline is counted to be that of what it adds to."""
        counted = self.workload.headline.noise == EXACT and not missing(row["x_prev"])
        return counted and abs(row["x_prev"] - 1) <= FAINT

    def barred(self, row: dict) -> bool:
        return row["status"] == "ok" and bool(self.purpose.barred(row))

    def rank(self, row: dict) -> float:
        """The second metric, less for what is better; without one all are alike."""
        if self.second is None:
            return 0.0
        value = row[self.second.name]
        return math.inf if missing(value) else value if self.second.better == LOWER else -value

    def chain(self, row: dict | None) -> list[dict]:
        """The measured rungs that one stands on, and itself, from the foot up."""
        key = self.gains.rungs[row["rung"]] if row else ()
        found = (self.row_of(key[:length]) for length in range(1, len(key) + 1))
        return [one for one in found if one and one["rung"] > 0]

    def turned(self, row: dict) -> Turned | None:
        """The rung as it is to be turned on; None if it is not."""
        over, gain = self.own_gain(row) if sign(row) > 0 else (None, None)
        if gain:
            return Turned(row=row, over=over, gain=gain)
        if self.level(row):
            below = self.row_of(self.gains.rungs[row["rung"]][:-1])
            if self.rank(row) < self.rank(below):
                return Turned(row=row, over=below, gain=None)
        return None

    def own_gain(self, row: dict) -> tuple[dict | None, Gain | None]:
        """The gain over what a rung adds to, and the row of that.

        Where that was told to be worse than something further down, the gain is over the best down
        there, if it was told: else the rung only makes up for a loss.
        """
        number, key = row["rung"], self.gains.rungs[row["rung"]]
        known = {key[:n]: self.worth[key[:n]] for n in range(len(key)) if key[:n] in self.worth}
        best, below, groups = max(known, key=known.get), key[:-1], self.below
        if best != below and self.told(number, best, below):
            groups, below = self.below | {number: self.gains.ratio(key, best)}, best
            if not self.told(number, key, best):
                return None, None
        return self.row_of(below), self.gain(self.gains.estimates(groups)[number])

    def told(self, number: int, above: tuple, below: tuple) -> bool:
        """Whether one is told to be better than the other, judged with the table's other gains."""
        if not (parts := self.gains.ratio(above, below)):
            return False
        found = self.gains.told(self.below | {number: parts})[number]
        return found.told and found.value > math.log1p(FAINT)

    @cached_property
    def worth(self) -> dict[tuple, float]:
        """The logarithm of the gain over the baseline, by what was applied."""
        found = self.gains.estimates(self.base)
        return {(): 0.0} | {self.gains.rungs[n]: one.value for n, one in found.items()}

    def row_of(self, key: tuple) -> dict | None:
        """The row of what was applied."""
        numbers = (number for number, one in self.gains.rungs.items() if one == key)
        return self.rows.get(next(numbers, None))

    def gain(self, found: Estimate) -> Gain:
        if self.workload.headline.noise == EXACT:
            return Gain(times=math.exp(found.value))
        low, times, high = (math.exp(value) for value in (found.low, found.value, found.high))
        return Gain(times=times, low=low, high=high)


def over_base(row: dict) -> int:
    return sign(row, "x_base", "verdict_base")

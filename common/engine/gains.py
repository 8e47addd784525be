"""Gains between rungs, from records: the ratios of the headline that belong together."""

import math
from collections.abc import Mapping
from functools import cached_property
from statistics import median

from common.engine import stats
from common.engine.metric import EXACT, LOWER, Metric
from common.engine.plan import LADDER, TWIN
from common.engine.rungs import stack
from common.engine.stats import CONFIDENCE, Estimate, Part

Logs = dict[int, float]  # by turn


class Gains:
    """The headline's logarithms by what was applied, and what they say of one another.

    Processes that took turns are compared turn by turn, with the machine in the same state. Where
    two did not take part in the same turns, a third that did with both joins them. Where there were
    no turns, the medians of a round's processes are compared.
    """

    def __init__(self, records: list[dict], metric: Metric) -> None:
        self.metric, self.records = metric, latest(records)
        clock = next((r["clock"] for r in self.records if r.get("clock")), None)
        self.looks = clock["looks"] if clock else 1
        self.levels: dict[tuple, dict[int, float]] = {}  # by what was applied, and round
        self.beyond: set[tuple[tuple, int]] = set()  # which of these are limits
        self.by_turn: dict[tuple[int, int], dict[tuple, Logs]] = {}  # by round and group
        for record in self.records:
            if record["status"] == "ok":
                self.add(record)

    def add(self, record: dict) -> None:
        turns = record["measurement"].get("turns")
        key, turn = self.key(record), record["round"]
        self.levels.setdefault(key, {})[turn], beyond = self.metric.level(record)
        if beyond:
            self.beyond.add((key, turn))
        if turns:
            group = self.by_turn.setdefault((turn, record["group"]), {})
            group[key] = self.each_turn(record)

    @staticmethod
    def key(record: dict) -> tuple:
        """What tells apart whose value it is: what was applied, and whether it is the twin."""
        return (TWIN, *stack(record)) if record["series"] == TWIN else stack(record)

    def each_turn(self, record: dict) -> Logs:
        """The headline of every turn: what the record would say if its steps were all."""
        measured, steps = record["measurement"], {}
        for turn, seconds in zip(measured["turns"], measured["step_s"], strict=True):
            steps.setdefault(turn, []).append(seconds)
        alone = ({**record, "measurement": measured | {"step_s": s}} for s in steps.values())
        return dict(zip(steps, map(math.log, map(self.metric.of, alone)), strict=True))

    @property
    def sign(self) -> int:
        return -1 if self.metric.better == LOWER else 1

    def values(self, key: tuple) -> list[Part]:
        """The headline's logarithms in every round."""
        rounds = self.levels[key].items()
        return [Part(value=value, beyond=(key, turn) in self.beyond) for turn, value in rounds]

    def ratio(self, above: tuple, below: tuple) -> list[Part]:
        """Log gains, one for each round in which both were measured: above 0 is better.

        A round in which both are beyond their limits says nothing of their ratio.
        """
        a, b = self.levels.get(above, {}), self.levels.get(below, {})
        unknown = {
            turn for key, turn in self.beyond if key == above and (below, turn) in self.beyond
        }
        rounds = sorted((a.keys() & b.keys()) - unknown)
        return [self.part(turn, above, below) for turn in rounds]

    def part(self, turn: int, above: tuple, below: tuple) -> Part:
        path = self.path(turn, above, below)
        if path is None:
            gain = self.sign * (self.levels[above][turn] - self.levels[below][turn])
            missed = ((above, turn) in self.beyond) - ((below, turn) in self.beyond)
            return Part(value=gain, beyond=self.sign * missed)
        parts = [self.in_turns(turn, *pair) for pair in zip(path, path[1:], strict=False)]
        if any(part.error is None for part in parts):
            return Part(value=sum(part.value for part in parts))
        return Part(
            value=sum(part.value for part in parts),
            error=math.hypot(*(part.error for part in parts)),
            dof=min(part.dof for part in parts),
        )

    def path(self, turn: int, above: tuple, below: tuple) -> list[tuple] | None:
        """From one to the other over processes that took turns together; the shortest."""
        groups = [group for (of, _), group in self.by_turn.items() if of == turn]
        paths, known = [[above]], {above}
        for path in paths:  # grows meanwhile
            beside = {key: None for group in groups if path[-1] in group for key in group}
            if below in beside:
                return [*path, below]
            paths += [[*path, key] for key in beside if key not in known]
            known.update(beside)
        return None

    def in_turns(self, turn: int, above: tuple, below: tuple) -> Part:
        """From the turns that both took part in."""
        gains = []
        for (of, _), group in self.by_turn.items():
            if of == turn and above in group and below in group:
                a, b = group[above], group[below]
                gains += [self.sign * (a[t] - b[t]) for t in a.keys() & b.keys()]
        return stats.from_turns(gains)

    def of(self, series: str) -> dict[int, list[dict]]:
        """The records of a series by rung, in order of rounds."""
        found: dict[int, list[dict]] = {}
        for record in sorted(self.records, key=lambda r: (r["rung"], r["round"])):
            rows = found.setdefault(record["rung"], []) if record["series"] == series else None
            # one of each round: what joins two groups has two
            if rows is not None and (not rows or rows[-1]["round"] != record["round"]):
                rows.append(record)
        return found

    @cached_property
    def rungs(self) -> dict[int, tuple]:
        """What was applied, by rung of the ladder that was measured in some round."""
        rows = self.of(LADDER)
        measured = {n: rows[n][-1] for n in rows if any(r["status"] == "ok" for r in rows[n])}
        return {number: stack(record) for number, record in measured.items()}

    def over_below(self) -> dict[int, list[Part]]:
        """Each rung's gains over what it was added to."""
        return _some({n: self.ratio(key, key[:-1]) for n, key in self.rungs.items() if key})

    @cached_property
    def baseline(self) -> tuple:
        """The recipe without rungs of any ladder; where a ladder stands on another and that was not
        measured, its own foot.
        """
        return () if () in self.rungs.values() else self.rungs.get(0, ())

    def over_baseline(self) -> dict[int, list[Part]]:
        above = {n: key for n, key in self.rungs.items() if len(key) > len(self.baseline)}
        return _some({n: self.ratio(key, self.baseline) for n, key in above.items()})

    def twin(self) -> tuple[int, list[Part]] | None:
        """The rung that was measured twice, and the gains of the one over the other."""
        for number, records in self.of(TWIN).items():
            key = stack(records[-1])
            if parts := self.ratio((TWIN, *key), key):
                return number, parts
        return None

    def differs(self) -> bool:
        """Whether the twin is not what it is a twin of: then nothing can be told."""
        parts = self.twin()
        if parts is None:
            return False
        groups = self.over_below() | {TWIN: parts[1]}
        return not stats.is_open(self.judged(groups, {TWIN})[TWIN])

    def verdicts(self, groups: Mapping) -> dict:
        """What each group of log gains says, judged together."""
        if self.differs():
            return dict.fromkeys(groups, stats.UNJUDGED)
        return self.judged(groups, groups)

    def judged(self, groups: Mapping, wanted) -> dict:
        found = self.told(groups)
        return {key: stats.verdict(found[key], self.metric.words) for key in wanted}

    def told(self, groups: Mapping) -> dict[object, Estimate]:
        """Estimates whose intervals hold together, however often the run was looked at.

        Gains that are told leave their share of the doubt to the others. Source: Holm 1979,
        Scandinavian Journal of Statistics 6.
        """
        found, left = {}, len(groups)
        while True:
            estimates = self.estimates(groups, stats.together(left, self.looks))
            found = estimates | {key: one for key, one in found.items() if one.told}
            if (still := sum(not one.told for one in found.values())) in (0, left):
                return found
            left = still

    def estimates(self, groups: Mapping, confidence: float = CONFIDENCE) -> dict[object, Estimate]:
        """Estimates with intervals; of what was counted, any difference says something."""
        if self.metric.noise == EXACT:
            middles = {key: median(p.value for p in parts) for key, parts in groups.items()}
            return {key: Estimate(value=value, half=0.0) for key, value in middles.items()}
        return stats.estimates(groups, confidence)

    def undecided(self, resolution: float) -> set[tuple]:
        """What was applied in rungs of which a gain is neither told nor known so closely."""
        found = set()
        for groups, is_over_base in ((self.over_below(), False), (self.over_baseline(), True)):
            for number, estimate in self.told(groups).items():
                known = stats.smallest(estimate) <= resolution  # not so of NaN
                if not estimate.told and not known:
                    key = self.rungs[number]
                    found |= {key, self.baseline if is_over_base else key[:-1]}
        return found


def latest(records: list[dict]) -> list[dict]:
    """Of what was measured more than once, the last: a resumed run repeats what had failed.

    Processes that took turns belong together: a generation is repeated as a whole.
    """
    attempt = {r["round"]: r.get("generation") for r in records}
    whole = [r for r in records if r.get("generation") == attempt[r["round"]]]
    return [*{(r["round"], r.get("group"), r["series"], r["rung"]): r for r in whole}.values()]


def _some(groups: dict[int, list[Part]]) -> dict[int, list[Part]]:
    return {number: parts for number, parts in groups.items() if parts}

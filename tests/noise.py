"""Made-up runs on machines with noise of many kinds: what verdicts are worth is counted on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.engine.gains import Gains
from common.engine.looks import GENERATIONS, LOOKS
from common.engine.metric import HIGHER, Metric
from common.engine.stats import is_open
from common.report.comparison import compare
from common.workloads.train.metrics import tok_per_s
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_record

RUNGS = 12
NONE = (0.0,) * RUNGS
RATE = Metric(name="tok_per_s", title="tok/s", of=tok_per_s, better=HIGHER)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Relative standard deviations: of a step, of a process, of the drift from turn to turn."""

    step: tuple[float, ...] = (0.025,) * RUNGS
    luck: tuple[float, ...] = (0.004,) * RUNGS
    drift: float = 0.02
    spikes: float = 0.02  # of all steps; each takes half as long again, or longer
    shift: float = 0.0  # of the whole second run, where two are compared

    def run(self, generator, turn: int, gains, turns: int, alone: bool = False) -> list[dict]:
        """Records of one generation. `gains`: logarithms, each over the baseline.

        `alone`: no turns, each process by itself.
        """
        drift = np.cumsum(generator.normal(0, self.drift, (turns, 1)), 0)
        if alone:  # one after the other: what drifts meets each rung at another time
            drift = np.cumsum(generator.normal(0, self.drift, (1, RUNGS)), 1)
        noise = generator.normal(0, 1, (turns, RUNGS)) * self.step
        spiked = generator.random((turns, RUNGS)) < self.spikes
        luck = generator.normal(0, 1, RUNGS) * self.luck
        seconds = np.exp(drift + noise + luck - np.asarray(gains))
        seconds *= 1 + spiked * (0.5 + generator.exponential(0.5, (turns, RUNGS)))
        return [record(rung, turn, seconds[:, rung], alone) for rung in range(RUNGS)]


def record(rung: int, turn: int, step_s, alone: bool) -> dict:
    made = fake_record(rung, turn, 1.0)
    made["measurement"]["step_s"] = step_s.tolist()
    if not alone:
        made["measurement"]["turns"] = list(range(len(step_s)))
        made |= {"group": 1, "clock": {"looks": LOOKS}, "generation": f"of {turn}"}
    return made


def climbed(machine: Machine, generator, gains=NONE, resolution=0.03, turns: int = 12) -> Gains:
    """A run as engine/looks.py goes about it: looked at half-way through the last generation.

    Who is known by then takes no part in its second half.
    """
    records = []
    for turn in range(1, GENERATIONS):
        records += machine.run(generator, turn, gains, turns)
    last = machine.run(generator, GENERATIONS, gains, 2 * turns)
    unknown = Gains([*records, *(cut(one, turns) for one in last)], RATE).undecided(resolution)
    after = [one if Gains.key(one) in unknown else cut(one, turns) for one in last]
    return Gains([*records, *after], RATE)


def cut(record: dict, turns: int) -> dict:
    measured = record["measurement"]
    steps = {key: measured[key][:turns] for key in ("step_s", "turns")}
    return record | {"measurement": measured | steps}


def several(machine: Machine, generator, rounds: int, alone: bool) -> list[dict]:
    """Records of so many generations, all alike."""
    turns = 6 if alone else 12
    return [
        one
        for turn in range(1, rounds + 1)
        for one in machine.run(generator, turn, NONE, turns, alone)
    ]


def told(verdicts: dict) -> bool:
    """Whether a table says something of rungs that are all the same."""
    return not all(map(is_open, verdicts.values()))


def false_tables(machine: Machine, runs: int, seed: int = 0) -> dict[str, float]:
    """How often rungs that are all the same are called faster or slower, by kind of table."""
    wrong = dict.fromkeys(KINDS, 0)
    for generator in generators(runs, seed):
        table = climbed(machine, generator)
        wrong["below"] += told(table.verdicts(table.over_below()))
        wrong["baseline"] += told(table.verdicts(table.over_baseline()))
        table = Gains(several(machine, generator, 3, alone=True), RATE)
        wrong["rounds"] += told(table.verdicts(table.over_below()))
        a, b = (several(machine, generator, 3, alone=False) for _ in "ab")
        frame = compare(a, shifted(b, machine.shift), TRAINING)
        wrong["compare"] += told(dict(frame["verdict"]))
    return {kind: count / runs for kind, count in wrong.items()}


KINDS = ("below", "baseline", "rounds", "compare")


def shifted(records: list[dict], by: float) -> list[dict]:
    for one in records:
        measured = one["measurement"]
        measured["step_s"] = [seconds * (1 + by) for seconds in measured["step_s"]]
    return records


def found(machine: Machine, gain: float, runs: int, seed: int = 0) -> float:
    """How often a rung in the middle that is faster by `gain` is called so."""
    gains = np.where(np.arange(RUNGS) >= RUNGS // 2, np.log1p(gain), 0.0)
    hits = 0
    for generator in generators(runs, seed):
        table = climbed(machine, generator, gains, resolution=0.5 * gain)
        hits += table.verdicts(table.over_below())[RUNGS // 2] == RATE.words[0]
    return hits / runs


def generators(runs: int, seed: int) -> Iterator[np.random.Generator]:
    return map(np.random.default_rng, np.random.SeedSequence(seed).spawn(runs))


def but(usual: float, **others: tuple) -> tuple[float, ...]:
    """The same for all rungs but one in `every` from `first` on, which have `times` as much."""
    first, every, times = others["of"]
    odd = range(first, RUNGS, every)
    return tuple(usual * (times if rung in odd else 1) for rung in range(RUNGS))


STEP, LUCK = 0.025, 0.004
MACHINES = {
    "equal noise": Machine(),
    "one rung's steps x8": Machine(step=but(STEP, of=(5, RUNGS, 8))),
    "one rung's processes x8": Machine(luck=but(LUCK, of=(5, RUNGS, 8))),
    "half of the rungs' steps x6": Machine(step=but(STEP, of=(0, 2, 6))),
    "half of the rungs' processes x6": Machine(luck=but(LUCK, of=(0, 2, 6))),
    "the baseline's steps x8": Machine(step=but(STEP, of=(0, RUNGS, 8))),
    "the baseline's processes x8": Machine(luck=but(LUCK, of=(0, RUNGS, 8))),
    "spikes, 1 step in 10": Machine(spikes=0.1),
    "drift x5": Machine(drift=0.1),
    "the whole run 10 % slower": Machine(shift=0.1),
}

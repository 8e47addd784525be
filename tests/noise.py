"""Made-up runs on machines with noise of many kinds: what verdicts are worth is counted on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.engine.gains import Gains
from common.engine.looks import FIRST, LOOKS
from common.engine.metric import HIGHER, Metric
from common.engine.stats import is_open
from common.report.comparison import compare
from common.workloads.train.metrics import tok_per_s
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_record

RUNGS = 12
RATE = Metric(name="tok_per_s", title="tok/s", of=tok_per_s, better=HIGHER)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Relative standard deviations: of a step, of a process, of the drift from turn to turn."""

    step: tuple[float, ...] = (0.025,) * RUNGS
    luck: tuple[float, ...] = (0.004,) * RUNGS
    drift: float = 0.02
    spikes: float = 0.02  # of all steps; each takes half as long again, or longer
    shift: float = 0.0  # of the whole second run, where two are compared

    def run(self, generator, gains=(0.0,) * RUNGS, turns: int = 12, alone: bool = False):
        """Records of one generation after another, of the rungs that are sent; first of all.

        `gains`: logarithms, each over the baseline. `alone`: no turns, each process by itself.
        """
        wanted = range(RUNGS)
        for turn in range(1, 100):
            drift = np.cumsum(generator.normal(0, self.drift, (turns, 1)), 0)
            if alone:  # one after the other: what drifts meets each rung at another time
                drift = np.cumsum(generator.normal(0, self.drift, (1, RUNGS)), 1)
            noise = generator.normal(0, 1, (turns, RUNGS)) * self.step
            spiked = generator.random((turns, RUNGS)) < self.spikes
            luck = generator.normal(0, 1, RUNGS) * self.luck
            seconds = np.exp(drift + noise + luck - np.asarray(gains))
            seconds *= 1 + spiked * (0.5 + generator.exponential(0.5, (turns, RUNGS)))
            records = [record(rung, turn, seconds[:, rung], alone) for rung in wanted]
            wanted = (yield records) or wanted


def record(rung: int, turn: int, step_s, alone: bool) -> dict:
    made = fake_record(rung, turn, 1.0)
    made["measurement"]["step_s"] = step_s.tolist()
    if not alone:
        made["measurement"]["turns"] = list(range(len(step_s)))
        made |= {"group": 1, "clock": {"looks": LOOKS}, "generation": f"of {turn}"}
    return made


def climbed(
    machine: Machine, generator, gains=(0.0,) * RUNGS, resolution: float = 0.03, turns: int = 12
) -> Gains:
    """A run as engine/looks.py goes about it: looked at, and ended by what is seen."""
    generations = machine.run(generator, gains, turns)
    records = next(generations)
    for _ in range(1, FIRST):
        records = records + next(generations)
    for _ in range(LOOKS):
        table = Gains(records, RATE)
        unknown = table.undecided(resolution)
        wanted = [rung for rung in range(RUNGS) if tuple(range(1, rung + 1)) in unknown]
        if not wanted:
            break
        records = records + generations.send(wanted)
    return table


def in_rounds(machine: Machine, generator, rounds: int, gains=(0.0,) * RUNGS) -> list[dict]:
    generations = machine.run(generator, gains, turns=6, alone=True)
    return [record for _ in range(rounds) for record in next(generations)]


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
        table = Gains(in_rounds(machine, generator, 3), RATE)
        wrong["rounds"] += told(table.verdicts(table.over_below()))
        a, b = (in_turns(machine, generator) for _ in "ab")
        frame = compare(a, shifted(b, machine.shift), TRAINING)
        wrong["compare"] += told(dict(frame["verdict"]))
    return {kind: count / runs for kind, count in wrong.items()}


KINDS = ("below", "baseline", "rounds", "compare")


def in_turns(machine: Machine, generator) -> list[dict]:
    generations = machine.run(generator)
    return [*next(generations), *next(generations), *next(generations)]


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

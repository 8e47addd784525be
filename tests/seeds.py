"""Made-up climbs whose rounds are seeds, some of which miss: what verdicts are worth."""

import math
from dataclasses import dataclass

import numpy as np

from common.engine.gains import Gains
from common.engine.metric import LOWER, SEEDS, Metric
from common.engine.stats import is_open

# what each rung stands on: a stair of two, then branches, as in the ladder convergence
STACKS = (
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 4),
    (1, 2, 5),
    (1, 2, 5, 6),
    (1, 2, 5, 7),
    (1, 2, 5, 8),
)
NONE = (0.0,) * len(STACKS)
LIMIT = 1000.0
USES = Metric(
    name="uses", title="uses", of=lambda record: record["uses"], limit=lambda record: LIMIT,
    better=LOWER, noise=SEEDS, words=("fewer", "more"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Climb:
    """Logarithms: the standard deviation over seeds of each rung, and of what a seed's rungs share.

    `usual`: the median as a share of the limit, beyond which a value is infinite.
    """

    seeds: int
    spread: tuple[float, ...] = (0.1,) * len(STACKS)
    shared: float = 0.0
    usual: float = 0.5

    def run(self, generator, gains=NONE) -> Gains:
        """Each rung's gain, over the foot, is fewer uses."""
        noise = generator.normal(0, 1, (self.seeds, len(STACKS))) * self.spread
        noise += generator.normal(0, self.shared, (self.seeds, 1))
        uses = self.usual * LIMIT * np.exp(noise - gains)
        uses[uses > LIMIT] = math.inf
        return Gains(
            [
                {"series": "ladder", "status": "ok", "rung": rung, "round": seed + 1,
                 "applied": stack, "measurement": {}, "uses": uses[seed, rung]}
                for seed in range(self.seeds)
                for rung, stack in enumerate(STACKS)
            ],
            USES,
        )  # fmt: skip


def tables(climb: Climb, runs: int, gains=NONE):
    """The two tables of verdicts of so many climbs."""
    for seed in range(runs):
        found = climb.run(np.random.default_rng(seed), np.asarray(gains))
        yield found.verdicts(found.over_below()), found.verdicts(found.over_baseline())


def false(climb: Climb, runs: int) -> tuple[float, float]:
    """How often a table says something of rungs that are all the same."""
    said = [[not all(map(is_open, table.values())) for table in two] for two in tables(climb, runs)]
    return tuple(np.mean(said, 0))


def found(climb: Climb, rung: int, gain: float, runs: int) -> tuple[float, float]:
    """How often a rung that gains so much, for itself and all upon it, is called better."""
    gains = [gain * (rung in stack) for stack in STACKS]
    word = USES.words[gain < 0]
    said = [[table.get(rung) == word for table in two] for two in tables(climb, runs, gains)]
    return tuple(np.mean(said, 0))

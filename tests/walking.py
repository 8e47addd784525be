"""A workload that seeds repeat, and that steps until it is done: a walk to a line."""

import random
from dataclasses import dataclass

from common.engine import session
from common.engine.ladder import Ladder
from common.engine.metric import LOWER, SEEDS, Metric
from common.engine.purpose import Purpose
from common.engine.workload import Workload
from tests.packing import rung


@dataclass(frozen=True)
class Stride:
    length: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    seed: int = 0


class Walk(session.Session):
    def __init__(self, recipe: Stride, settings: Settings) -> None:
        super().__init__(settings)
        self.recipe, self.random, self.place = recipe, random.Random(settings.seed), 0.0

    def step(self) -> None:
        self.place += self.recipe.length * self.random.random()

    def begin(self) -> None:
        self.place = 0.0

    def more(self, done: int) -> bool:
        return self.place < 10

    def values(self, timed, tell) -> dict:
        return {"strides": len(timed.step_s), "seed": self.settings.seed}


class Walking(Workload):
    def build(self, recipe, settings, place) -> Walk:
        return Walk(recipe, settings)


STRIDES = Metric(name="strides", title="strides", of=lambda r: r["measurement"]["strides"],
                 better=LOWER, noise=SEEDS, words=("fewer", "more"))  # fmt: skip
LADDER = Ladder(
    name="tests.walking",
    purpose=Purpose(
        name={"en": "Walking", "ja": "歩行"},
        about={"en": "Strides to a line.", "ja": "線までの歩数。"},
    ),
    workload=Walking(
        address="tests.walking:LADDER.workload", metrics=(STRIDES,), recipe=Stride,
        settings=Settings,
    ),
    modules=(rung(1, "Longer", length=0.2),),
)  # fmt: skip

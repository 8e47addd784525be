"""A ladder whose rungs are all the same, for A/A runs; its last can be slowed on purpose.

Each rung sets a variable that nobody reads, but for the last one's: a share by which its steps
take longer, 0 unless LADDER_SLOW names another.
"""

import os
import time

import torch

from common.engine.ladder import Ladder
from common.workloads.train import metrics
from common.workloads.train.session import TrainSession
from common.workloads.train.workload import Training
from tests.packing import rung

SLOWER_BY = "LADDER_SLOWER_BY"


class SlowSession(TrainSession):
    def step(self) -> None:
        begin = time.perf_counter()
        super().step()
        now = time.perf_counter()
        until = now + (now - begin) * float(os.environ.get(SLOWER_BY, 0))
        matrix = torch.ones(64, 64)
        while time.perf_counter() < until:
            torch.mm(matrix, matrix)


class Slow(Training):
    def build(self, recipe, settings, device) -> TrainSession:
        return SlowSession(recipe, settings, device)


SHARE = os.environ.get("LADDER_SLOW", 0)
VARIABLES = [*(f"LADDER_SAME={n}" for n in (1, 2, 3)), f"{SLOWER_BY}={SHARE}"]
LADDER = Ladder(
    name="tests.same",
    workload=Slow(address="tests.same:LADDER.workload", metrics=(metrics.RATE, metrics.RESERVED)),
    modules=tuple(
        rung(number, f"The same, {number}", environment=(variable,))
        for number, variable in enumerate(VARIABLES, start=1)
    ),
)

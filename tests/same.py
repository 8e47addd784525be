"""A ladder whose rungs are all the same, for A/A runs: each sets a variable that nobody reads."""

from common.engine.ladder import Ladder
from common.workloads.train import metrics
from common.workloads.train.workload import Training
from tests.packing import rung

LADDER = Ladder(
    name="tests.same",
    workload=Training(
        address="tests.same:LADDER.workload", metrics=(metrics.RATE, metrics.RESERVED)
    ),
    modules=tuple(
        rung(number, f"The same, {number}", environment=(f"LADDER_SAME={number}",))
        for number in range(1, 5)
    ),
)

"""The environment ladder: somebody's program, of which only variables are changed."""

from common.engine.ladder import Ladder
from common.workloads.command.workload import COMMAND
from ladders.environment import (
    step01_page_faults,
    step02_threads,
    step03_bound_threads,
    step04_tf32,
    step05_expandable_segments,
    step06_inductor,
)

LADDER = Ladder(
    name="ladders.environment",
    workload=COMMAND,
    start="as it is",
    note="Seen from outside: a rung's variables were in the command's environment, and its lines "
    "came at this rate. What the program made of them is not known, and whether it still computes "
    "the same only where its lines have a loss.",
    modules=(
        step01_page_faults,
        step02_threads,
        step03_bound_threads,
        step04_tf32,
        step05_expandable_segments,
        step06_inductor,
    ),
)

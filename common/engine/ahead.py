"""Which processes can be started before it is their turn: nothing is timed while they start."""

from collections.abc import Sequence

from common.engine.device import DeviceFacts, allowed_cpus
from common.engine.job import Job
from common.engine.plan import Combination

CORES_EACH = 2  # of a process that starts beside others, where an accelerator does the work


def at_once(device: DeviceFacts, room: float) -> int:
    """How many processes may start beside one another, where memory has room for so many."""
    if device.type == "cpu":
        return 0  # a start keeps all cores busy there
    return int(min(allowed_cpus() // CORES_EACH, room))


def foreseen(climb, turn: int, jobs: Sequence[tuple[str, int]]) -> list[Job]:
    """The next processes of these, if none of them fails, up to one that needs a try first."""
    stack, found = climb.stack.copy(), []
    for series, number in jobs:
        combination = stack.combinations.get((series, number)) or stack.compose(series, number)
        if combination.recipe is None:
            continue
        if not combination.settled and is_open(climb, series, number, combination):
            break
        found.append(climb.job(turn, series, number, combination, turns=True))
    return found


def is_open(climb, series: str, number: int, combination: Combination) -> bool:
    """Whether tries decide on the recipe, or have decided on others'."""
    candidates = climb.candidates(series, number, combination)
    return len(candidates) > 1 or climb.workload.is_open(combination.recipe) or bool(climb.closed)

"""The ladders by name. A ladder's package is imported when it is asked for."""

import pkgutil

from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.workload import Workload

LADDERS = {  # in the order in which --ladder all climbs those that have a purpose
    "steps": "steps",
    "beyond": "ladders.beyond",
    "memory": "ladders.memory",
    "data": "ladders.data",
    "inference": "ladders.inference",
    "compress": "ladders.compress",
    "finetune": "ladders.finetune",
    "convergence": "ladders.convergence",
    "parallel": "ladders.parallel",
    "environment": "ladders.environment",
    "own": "ladders.own",
}
IMPLIED = {"--model": "own", "--command": "environment"}  # options that only one of them has


def load(name: str) -> Ladder:
    """The ladder that --ladder names."""
    return pkgutil.resolve_name(f"{LADDERS[name]}:LADDER")


def of_records(records: list[dict]) -> Ladder:
    """The ladder that made them. Raises UserError for one that is not of this project."""
    package = records[0]["ladder"]
    name = next((name for name, one in LADDERS.items() if one == package), None)
    if name is None:
        raise UserError(f"records of the ladder {package}; known: {', '.join(LADDERS.values())}")
    return load(name)


def workload_of(package: str) -> Workload:
    return of_records([{"ladder": package}]).workload

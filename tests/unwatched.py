"""A command of the project that does not mind what else uses the processor.

python -m tests.unwatched [--without-ceilings] MODULE OPTIONS: as python -m MODULE OPTIONS. For
tests of something else: beside other tests a ladder in rounds would measure every rung twice, each
of them disturbed. The ceilings take a process of their own.
"""

import runpy
import sys

from common.engine import children
from common.engine.climb import Climb

WITHOUT_CEILINGS = "--without-ceilings"


def by_nobody(window: dict, own_share: float | None) -> None:
    """In place of `cpu_disturbance`."""


def no_ceilings(climb: Climb) -> None:
    """In place of `Climb.measure_ceilings`."""


def unwatch(ceilings: bool = True) -> None:
    children.cpu_disturbance = by_nobody
    if not ceilings:
        Climb.measure_ceilings = no_ceilings


if __name__ == "__main__":
    unwatch(ceilings=WITHOUT_CEILINGS not in sys.argv)
    sys.argv = [word for word in sys.argv[1:] if word != WITHOUT_CEILINGS]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

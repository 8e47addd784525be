"""A command of the project that does not mind what else uses the processor.

python -m tests.unwatched MODULE OPTIONS: as python -m MODULE OPTIONS. For tests of something else:
beside other tests a ladder in rounds would measure every rung twice, each of them disturbed.
"""

import runpy
import sys

from common.engine import children


def by_nobody(window: dict, own_share: float | None) -> None:
    """In place of `cpu_disturbance`."""


def unwatch() -> None:
    children.cpu_disturbance = by_nobody


if __name__ == "__main__":
    unwatch()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

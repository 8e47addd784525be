"""A ladder whose rungs misbehave in their probes, to test what the runner makes of it."""

import os
import signal
import time
from types import SimpleNamespace

import torch

from common.ladder import Ladder, NotInEffect
from common.recipe import Numerics
from common.train_metrics import TRAINING


def fine(run) -> str:
    return "fine"


def refuses(run) -> str:
    raise NotInEffect("the probe saw nothing")


def dies(run) -> str:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves(run) -> str:
    os._exit(3)


def hangs(run) -> str:
    time.sleep(600)


def runs_out(run) -> str:
    raise torch.OutOfMemoryError("tried to allocate a moon")


def breaks(run) -> str:
    raise ZeroDivisionError("a rung of straw")


def rung(number: int, title: str, in_effect, reason: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        __doc__=f"{number}. {title}.",
        CHANGES=(),
        NUMERICS=Numerics.EXACT,
        applies=lambda device, recipe: reason,
        in_effect=in_effect,
        apply=lambda recipe: recipe,
    )


LADDER = Ladder(
    name="tests.faulty",
    workload=TRAINING,
    rungs=(
        rung(1, "Refuses", refuses),
        rung(2, "Dies", dies),
        rung(3, "Hangs", hangs),
        rung(4, "Runs out", runs_out),
        rung(5, "Breaks", breaks),
        rung(6, "Leaves", leaves),
        rung(7, "Does not apply", fine, "not on this planet"),
        rung(8, "Fine", fine),
    ),
)

"""A ladder whose rungs misbehave in their probes, to test what the runner makes of it."""

import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import torch

from common.engine.contract import NotInEffect, Numerics
from common.engine.ladder import Ladder
from common.workloads.train.workload import TRAINING
from ladders.beyond import step04_fused_qkv, step06_softmax_in_place, step10_int8_logits
from steps import step05_bfloat16, step07_flash_attention
from tests import refusing


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
    modules=(
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


def chooses(run) -> str:
    """Of `candidates`: by the field in which each differs."""
    probes = {0.01: breaks, 0.02: refuses}
    return probes.get(run.recipe.learning_rate, fine)(run)


def candidates(device, recipe) -> dict:
    return {
        "straw": replace(recipe, learning_rate=0.01),
        "nothing": replace(recipe, learning_rate=0.02),
        "another": replace(recipe, dtype=torch.bfloat16),
        "stone": recipe,
    }


choice = rung(1, "Chooses", chooses)
choice.candidates = candidates
CHOICE = Ladder(name="tests.faulty:CHOICE", workload=TRAINING, modules=(choice,))

# what rung 10 of `beyond` stands on, and a 5 that only a child can refuse
WIDE = Ladder(
    name="tests.faulty:WIDE",
    workload=TRAINING,
    modules=(
        step05_bfloat16,
        step07_flash_attention,
        step06_softmax_in_place,
        step04_fused_qkv,
        refusing,
        step10_int8_logits,
    ),
)

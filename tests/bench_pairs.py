"""What each rung of beyond adds at a real shape, in processes that hold all of them.

python -m tests.bench_pairs SHAPE [PROCESSES]: a row. SHAPE is one of bench_shapes'.

The ladder's clock compares processes, and two of the same rung differ by more than the one per cent
that some rungs add. Here one process builds a model for each stack of rungs, and they step in
turns; what differs by process is left to the interval (95 %, over 3 processes). Random token ids,
no dropout; memory as bench_shapes gets it, but shared by all.
"""

import json
import math
import os
import random
import subprocess
import sys
import time

import torch

from common.accelerator import pages
from common.accelerator.device import describe
from common.engine.stats import Part, estimates, from_turns
from common.gpt.shape import Shape
from common.workloads.train.build import build, train_step
from common.workloads.train.recipe import Recipe
from ladders.beyond import LADDER, foot
from tests.bench_shapes import SHAPES, usual_pages

BELOW = (1, 3)
RUNGS = (4, 6, 7, 8, 9)
WARM_UP, TURNS = 2, 15
CHILD = "--in-this-process"


def stacks(windows: int) -> dict[int, Recipe]:
    """By their top, from the last of BELOW on."""
    device = describe("cpu")
    recipe, found = foot(Recipe(batch_size=windows, dropout=0.0), device), {}
    for number in (*BELOW, *RUNGS):
        rung = LADDER.rung(number)
        if rung.applies(device, recipe) is None:
            found[number] = recipe = rung.apply(recipe)
    return {number: one for number, one in found.items() if number >= BELOW[-1]}


def measure(name: str) -> dict[int, list[float]]:
    """By rung: in each turn, the logarithm of what it gains over the rung below."""
    layers, heads, width, context, windows, _ = SHAPES[name]
    shape = Shape(layers=layers, heads=heads, emb_dim=width, context=context)
    recipes = stacks(windows)
    runs = {n: build(recipe, shape, torch.device("cpu")) for n, recipe in recipes.items()}
    ids = torch.randint(shape.vocab_size, (windows, context + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    gains: dict[int, list[float]] = {number: [] for number in runs}
    for turn in range(WARM_UP + TURNS):
        seconds = {}
        for number in random.sample([*runs], len(runs)):
            begun = time.perf_counter()
            train_step(runs[number], inputs, targets)
            seconds[number] = time.perf_counter() - begun
        below = None
        for number in runs:
            if below is not None and turn >= WARM_UP:
                gains[number].append(math.log(seconds[below] / seconds[number]))
            below = number
    return {number: own for number, own in gains.items() if own}


def main(name: str, processes: str = "3") -> None:
    settings = pages.choices()[usual_pages()]
    environment = os.environ | dict(one.split("=", 1) for one in settings)
    line = [sys.executable, "-m", "tests.bench_pairs", name, CHILD]
    parts: dict[int, list[Part]] = {}
    for count in range(int(processes)):
        print(f"{name}, process {count + 1} of {processes}", file=sys.stderr)
        child = subprocess.run(line, env=environment, stdout=subprocess.PIPE, check=True)
        for number, gains in json.loads(child.stdout).items():
            parts.setdefault(int(number), []).append(from_turns(gains))
    cells = []
    for number, one in estimates(parts).items():
        low, ratio, high = map(math.exp, (one.low, one.value, one.high))
        known = "" if math.isnan(low) else f" ({low:.3f}–{high:.3f})"  # not from one process
        cells.append(f"{number} x{ratio:.3f}{known}")
    print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    if sys.argv[-1] == CHILD:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main(*sys.argv[1:])

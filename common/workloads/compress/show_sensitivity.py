"""Draw what each weight matrix costs in each format."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from common.engine.options import Parser, writable_file
from common.workloads.compress.base import base_for
from common.workloads.compress.parts import parts_of
from common.workloads.compress.plot_pareto import plot_sensitivity
from common.workloads.compress.sensitivity import Options, options_of
from common.workloads.compress.workload import COMPRESS

ABOUT = "What each weight matrix costs in each format: bytes, and loss on the calibration text."
PICTURE, SAVED = "sensitivity.png", "the picture; default: sensitivity.png, here"


def main(formats: Mapping, arguments: list[str] | None = None) -> int:
    """Measure and draw; `formats`: what makes a recipe by label, of the plain recipe."""
    parser = Parser(prog="python -m ladders.compress.sensitivity", description=ABOUT)
    COMPRESS.options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path(PICTURE), help=SAVED)
    options = parser.parse_args(arguments)
    writable_file("--out", options.out)
    planned = COMPRESS.plan(options)
    base = base_for(planned.settings)
    parts = parts_of(base.state, base.shape.heads)
    recipe = replace(planned.recipe, dtype=torch.bfloat16)
    found = options_of(parts, {label: make(recipe) for label, make in formats.items()}, base)
    print(table(found))
    plot_sensitivity(found, "; ".join(planned.about), options.out)
    print(f"Open {options.out}")
    return 0


def table(options: Options) -> str:
    """Changes of the loss by matrix and format, in nats, and the bytes in MiB."""
    labels = list(next(iter(options.values())))
    lines = [f"{'nats (MiB)':<22}" + "".join(f"{label:>19}" for label in labels)]
    for name, own in options.items():
        figures = (f"{change:+.4f} ({size / 2**20:.2f})" for size, change in own.values())
        lines.append(f"{name:<22}" + "".join(f"{figure:>19}" for figure in figures))
    return "\n".join(lines)

"""The memory of GPT-2s without a device: python -m ladders.memory.table --fits 8GiB

What one update holds at most, in GiB of tensors: by formula (common/workloads/train/needs.py), and
counted while this project's model makes an update of tensors without memory. What an allocator, a
CUDA context, and Python take comes on top.
"""

import os
import textwrap
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from common.engine.device import GIB, threads_allowed
from common.engine.errors import UserError
from common.engine.options import Parser, size, whole
from common.gpt.shape import Shape
from common.memory import fits
from common.memory.models import MODELS, WRONG, Model, rough_table
from common.memory.recipes import EIGHT_BIT, RECIPES, recipe_of
from common.workloads.train.advice import in_gib
from common.workloads.train.needs import needs
from common.workloads.train.options import MOST

MOST_BATCHES = 3  # that fit 80 columns
WORTH_PROCESSES = 12  # blocks: fewer are counted before a process has imported torch
HOW = (
    "All of a model's tensors at the fullest moment of an update, with 16 B a parameter in "
    "float32 (8 in bfloat16) for weights, gradients, and AdamW's moments, fused attention, no "
    "dropout, AdamW fused. Formula: its terms are in common/workloads/train/needs.py. Counted: the "
    "same update run on tensors without memory (FakeTensor), as a CPU's operators make them. The "
    "8-bit update, which takes minutes to count, is left to the formula. Allocators, a CUDA "
    "context, and Python come on top."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe's figures for a model, in bytes; `counted` is empty where nothing was counted."""

    model: Model
    recipe: str
    states: float  # weights, gradients, moments: the least, whatever the batch
    formula: tuple[float, ...]  # by batch
    counted: tuple[float, ...] = ()


def row(place: int, model: Model, batches: tuple[int, ...], counting: bool) -> Row:
    """One recipe of RECIPES. In a process of its own: what it takes must be importable."""
    name, rungs = RECIPES[place]
    found = [needs(model.shape, recipe_of(rungs, batch)) for batch in batches]
    counted = ()
    if counting and EIGHT_BIT not in rungs:
        from common.memory.fake import counts  # imports what torch.compile needs

        recipe = recipe_of(rungs, batches[0])
        counted = tuple(one.peak for one in counts(recipe, model.shape, batches))
    return Row(
        model=model,
        recipe=name,
        states=sum(found[0].with_gradients().values()),
        formula=tuple(one.peak for one in found),
        counted=counted,
    )


def rows(models: list[Model], batches: tuple[int, ...], counting: bool) -> list[Row]:
    """All recipes of all models. Long counts share the cores, in processes of their own."""
    work = [(place, model) for model in models for place in range(len(RECIPES))]
    if not counting or sum(model.shape.layers for model in models) < WORTH_PROCESSES:
        return [row(*one, batches, counting) for one in work]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: nothing is computed
    workers = max(1, min(threads_allowed(), 8))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        by_cost = sorted(work, key=lambda one: -one[1].shape.layers)  # the longest begin first
        jobs = {one: pool.submit(row, *one, batches, True) for one in by_cost}
        return [jobs[one].result() for one in work]


def to_text(found: list[Row], batches: tuple[int, ...]) -> str:
    """A model's rows, in 80 columns."""
    head = "".join(f"{f'batch {batch}':>18}" for batch in batches)
    names = "".join(f"{'formula':>9}{'counted':>9}" for _ in batches)
    lines = [
        *(textwrap.fill(line, 80) for line in found[0].model.title()),
        f"{'':<20}{'states':>6}{head}",
        f"{'GiB':<26}{names}",
    ]
    return "\n".join([*lines, *(f"{one.recipe:<20}{figures(one)}" for one in found)])


def figures(one: Row) -> str:
    cells = [f"{one.states / GIB:>6.2f}"]
    for place, formula in enumerate(one.formula):
        counted = f"{one.counted[place] / GIB:.2f}" if one.counted else "-"
        cells.append(f"{formula / GIB:>9.2f}{counted:>9}")
    return "".join(cells)


def to_markdown(found: list[Row], batches: tuple[int, ...]) -> str:
    """The same for a README."""
    heads = [f"batch {batch}, {kind}" for batch in batches for kind in ("formula", "counted")]
    lines = [
        "\n".join(found[0].model.title()),
        "",
        f"| GiB | states | {' | '.join(heads)} |",
        "|---|" + "--:|" * (1 + len(heads)),
    ]
    cells = ([one.recipe.strip(), *figures(one).split()] for one in found)
    return "\n".join([*lines, *(f"| {' | '.join(of_row)} |" for of_row in cells)])


def batch_list(text: str) -> tuple[int, ...]:
    """A parser of up to MOST_BATCHES batches with commas between them: sorted, each once."""
    found = sorted({whole(1, MOST)(part.strip()) for part in text.split(",")})
    if len(found) > MOST_BATCHES:
        raise UserError(f"--batches {text}: at most {MOST_BATCHES}")
    return tuple(found)


def make_parser() -> Parser:
    parser = Parser(prog="python -m ladders.memory.table", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", choices=[*MODELS, "all"], default="all", help="GPT-2's; default: all")
    add("--layers", type=whole(1, 10_000), metavar="N", help="another shape: blocks")
    add("--heads", type=whole(1, MOST), metavar="N", help="attention heads")
    add("--emb-dim", type=whole(1, MOST), metavar="N", help="model width")
    add("--context", type=whole(1, MOST), metavar="N", help="tokens in a window")
    batches = f"windows in an update, up to {MOST_BATCHES}; default: 1,8"
    add("--batches", type=batch_list, default=(1, 8), metavar="N[,N…]", help=batches)
    add("--formula", action="store_true", help="by formula alone: at once")
    add("--fits", type=size, metavar="SIZE", help="what fits 8GiB, say, the fastest first")
    windows = "windows in an update, for --fits; default: 8"
    add("--windows", type=whole(1, 4096), default=8, metavar="N", help=windows)
    add("--markdown", action="store_true", help="the table for a README")
    return parser


def models_of(options: Namespace) -> list[Model]:
    """The published ones, or the shape that was asked for. Raises UserError."""
    names = [*MODELS] if options.model == "all" else [options.model]
    given = {name: getattr(options, name) for name in ("layers", "heads", "emb_dim", "context")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return [MODELS[name] for name in names]
    base = MODELS["small" if options.model == "all" else options.model].shape
    fields = {name: getattr(base, name) for name in ("layers", "heads", "emb_dim", "context")}
    shape = Shape(**fields | given)
    if shape.emb_dim % shape.heads:
        raise UserError(f"--heads {shape.heads}: does not divide --emb-dim {shape.emb_dim}")
    return [Model(name="A model of this shape", shape=shape)]


def say_fits(models: list[Model], options: Namespace) -> None:
    """Raises UserError where nothing fits any model."""
    found = [fits.fitting(model, options.windows, options.fits) for model in models]
    if not any(found):
        smallest = min(models, key=lambda model: model.parameters)
        why = fits.nothing(smallest, options.windows)
        raise UserError(f"--fits: of {in_gib(options.fits)}, {smallest.name}: {why}")
    for model, settings in zip(models, found, strict=True):
        print(fits.to_text(model, options.windows, options.fits, settings))
        print()
    print(textwrap.fill(fits.ORDER, 80))


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    models, batches = models_of(options), options.batches
    if options.fits:
        say_fits(models, options)
        return 0
    found = rows(models, batches, not options.formula)
    for model in models:
        own = [one for one in found if one.model == model]
        print((to_markdown if options.markdown else to_text)(own, batches))
        print()
    print(textwrap.fill(HOW, 80))
    if rough := rough_table(models):
        print("\n" + "\n".join(rough))
        print("\n" + textwrap.fill(WRONG, 80))
    return 0

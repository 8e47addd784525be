"""The command line of the three scripts."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from common.accelerator.compiler import missing_compiler, with_compile_cache
from common.accelerator.device import describe_in_child, missing_bf16, pick_type
from common.engine.device import DeviceFacts
from common.engine.errors import UserError, exit_on_user_error, out_of_memory
from common.engine.options import Parser, seconds, whole
from common.scripts.finetuner import Finetuner, Methods, add_finetune_options, finetuned
from common.scripts.outputs import outputs
from common.scripts.trainer import Trainer
from common.scripts.world import Single
from common.workloads.train.advice import in_gib
from common.workloads.train.needs import needs
from common.workloads.train.options import Chosen, add_workload_options, chosen, norm
from common.workloads.train.recipe import LARGEST, Recipe
from common.workloads.train.schedule import Constant, Cosine, OneCycle
from common.workloads.train.workload import TRAINING

SCHEDULES = {"constant": Constant, "cosine": Cosine, "onecycle": OneCycle}


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = Parser(description=description.strip().splitlines()[0])
    add_workload_options(parser)
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--epochs", type=whole(1), default=1, metavar="N", help="passes in all; default: 1")
    add("--max-steps", type=whole(1), metavar="N", help="stop at N steps in all")
    add("--eval-every", type=whole(1), default=15, metavar="N", help="in steps; default: 15")
    add("--schedule", choices=SCHEDULES, default="constant", help="of the learning rate")
    rise = "the learning rate rises for N steps; default: 0, onecycle 30%% of all"
    add("--warmup-steps", type=whole(0), metavar="N", help=rise)
    clip = "the most that the gradients' norm may be; default: no limit"
    add("--clip", type=norm, metavar="NORM", help=clip)
    parts = "cut each batch into N parts, whose gradients add up; default: 1"
    add("--accumulate", type=whole(1), default=1, metavar="N", help=parts)
    add("--save", type=Path, metavar="FILE", help="write the weights at the end")
    add("--load", type=Path, metavar="FILE", help="start from such weights")
    curve = Path("results/loss.png")
    add("--plot", type=Path, default=curve, metavar="FILE", help=f"loss curve; default: {curve}")
    add("--checkpoint", type=Path, metavar="DIR", help="save to DIR, and go on from what is there")
    add("--checkpoint-every", type=whole(1), default=100, metavar="N", help="steps; default: 100")
    add("--timeout", type=seconds, default=900.0, metavar="SECONDS", help="for trying one batch")
    return parser


def main(
    recipe: Recipe,
    description: str,
    processes=Single(),  # noqa: B008
    methods: Methods | None = None,
) -> None:
    """Train by the recipe, as the command line says.

    `processes` knows how to join the processes that train together: see distributed.py. `methods`
    are those of finetuning that --finetune offers.
    """
    with with_compile_cache(), exit_on_user_error():
        parser = make_parser(description)
        processes.add_options(parser)
        if methods:
            add_finetune_options(parser, methods)
        options = parser.parse_args()
        device_type = pick_type(options.device)
        device = describe_in_child(device_type)
        work = chosen(options, device)
        recipe = for_workload(recipe, work, options)
        trainer = Trainer
        if methods:
            recipe = finetuned(recipe, options, methods)
            trainer = Finetuner if options.finetune else Trainer
        recipe, notes = as_it_can(recipe, device)
        with processes.join(device_type, options) as world, outputs(options, world):
            try:
                one = trainer(recipe, work, options, device, world)
                for note in notes:
                    one.say(note)
                one.train()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                raise UserError(
                    f"--batch-size {options.batch_size or 'by default'}: the device ran out of "
                    f"memory; try a smaller one{smallest(recipe, work, device_type)}"
                ) from error
            except KeyboardInterrupt:
                raise SystemExit(130) from None


def as_it_can(recipe: Recipe, device: DeviceFacts) -> tuple[Recipe, list[str]]:
    """The recipe without what this device and machine lack, and a line for each that it is."""
    notes = []
    if recipe.compile and (reason := missing_compiler(device)):
        notes.append(f"training without torch.compile: {reason}")
        recipe = replace(recipe, compile=False)
    if recipe.dtype is torch.bfloat16 and (reason := missing_bf16(device)):
        notes.append(f"training in float32: {reason}")
        recipe = replace(recipe, dtype=torch.float32)
    return recipe, notes


def smallest(recipe: Recipe, work: Chosen, device_type: str) -> str:
    """What a batch of 1 needs, and what tells more; empty where the formula does not know it."""
    found = needs(work.shape, replace(recipe, batch_size=1), device_type)
    if found is None:
        return ""
    return (
        f" (1 needs about {in_gib(found.peak)}; what else to change: "
        "python -m ladders.memory.table --fits SIZE)"
    )


def for_workload(recipe: Recipe, work: Chosen, options: argparse.Namespace) -> Recipe:
    """The script's recipe with the workload's dropout, its batch unless it is to be found, and how
    updates are made. Raises UserError where a batch cannot be cut into so many parts.
    """
    if options.batch_size or getattr(options, "finetune", None) or not TRAINING.is_open(recipe):
        recipe = replace(recipe, batch_size=work.recipe.batch_size)
    schedule, warmup = SCHEDULES[options.schedule], options.warmup_steps
    return replace(
        recipe,
        dropout=work.recipe.dropout,
        schedule=schedule,
        warmup=schedule.usual_warmup if warmup is None else warmup,
        clip_norm=options.clip or 0.0,
        accumulation=parts(recipe.batch_size, options.accumulate),
    )


def parts(batch: int | str, wanted: int) -> int:
    """Into how many a batch is cut. Raises UserError where that does not divide it."""
    if wanted == 1:
        return wanted
    if batch == LARGEST:
        raise UserError(
            f"--accumulate {wanted}: the largest batch is searched for, which it may not divide; "
            "give one with --batch-size"
        )
    if batch % wanted:
        divisors = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise UserError(
            f"--accumulate {wanted}: does not divide the batch of {batch} windows; allowed: "
            f"{divisors}"
        )
    return wanted

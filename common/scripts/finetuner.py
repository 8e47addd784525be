"""The scripts' training loop, of which only a method's parts are trained, on a base of a file."""

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from common.engine.errors import UserError
from common.engine.options import whole
from common.gpt import weights
from common.scripts.trainer import Trainer
from common.workloads.finetune.build import digest, make_run
from common.workloads.finetune.files import read_parts, save_parts
from common.workloads.finetune.parts import (
    EVERY_LINEAR,
    EVERYTHING,
    Adapted,
    load_parts,
    snapshot,
    trained,
)
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import Merged, mergeable
from common.workloads.generate.base import read_weights
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

Methods = Mapping[str, Callable[[FinetuneRecipe], FinetuneRecipe]]
ONLY_WITH = ("weights", "parts", "rank", "targets", "merge")  # options that finetuning has
SUFFIX = ".safetensors"
SEED = 1  # of the new parts


def add_finetune_options(parser: argparse.ArgumentParser, methods: Methods) -> None:
    add = parser.add_argument_group("finetuning").add_argument
    add("--finetune", choices=methods, metavar="METHOD", help=f"one of {', '.join(methods)}")
    base = "the base: a checkpoint of the scripts, or safetensors with GPT-2's names"
    add("--weights", type=Path, metavar="FILE", help=base)
    add("--parts", type=Path, metavar="FILE", help="start from parts that --save wrote, or peft")
    add("--rank", type=whole(0), metavar="R", help="of LoRA's products; default: 8")
    layers = f"of {', '.join(EVERY_LINEAR)}; default: the method's own"
    add("--targets", metavar="LAYER[,LAYER…]", help=layers)
    add("--merge", action="store_true", help="save the whole model, with the parts in its weights")


def finetuned(recipe: Recipe, options: argparse.Namespace, methods: Methods) -> Recipe:
    """The script's recipe with the method in it. Raises UserError where options do not fit."""
    if not options.finetune:
        given = {name: getattr(options, name) for name in ONLY_WITH}
        if given := [k for k, value in given.items() if value is not None and value is not False]:
            raise UserError(f"--{given[0]}: only with --finetune {'|'.join(methods)}")
        return recipe
    if options.weights is None:
        raise UserError(f"--finetune {options.finetune}: --weights FILE is needed, the base")
    for name in ("load", "checkpoint"):
        if getattr(options, name):
            raise UserError(f"--{name}: not with --finetune, which has --weights and --parts")
    own = FinetuneRecipe.of(recipe, model=Adapted, weight_decay=0.0)
    own = methods[options.finetune](replace(own, rank=8 if options.rank is None else options.rank))
    if options.targets:
        own = replace(own, targets=tuple(options.targets.split(",")))
    parts = own.trains != EVERYTHING and not options.merge
    if parts and options.save and options.save.suffix != SUFFIX:
        raise UserError(f"--save {options.save}: must end in {SUFFIX}, as what saves parts only")
    return own


class Finetuner(Trainer):
    """One finetuning run and what it prints."""

    def make_run(self, recipe: FinetuneRecipe) -> Run:
        base = read_weights(self.options.weights, self.work.shape)
        self.base = digest(base)
        ids = self.train_windows[0][0]
        updates = self.updates(recipe)
        run = make_run(recipe, self.work.shape, base, self.device, ids, SEED, updates)
        if self.options.parts:
            load_parts(trained(run.model), read_parts(self.options.parts, recipe, self.base))
        if self.options.merge:
            mergeable(run.model)
        own, every = (
            sum(p.numel() for p in found)
            for found in (trained(run.model).values(), run.model.parameters())
        )
        self.say(f"{self.options.finetune}: {own:,} of {every:,} parameters are trained\n")
        return run

    def save_weights(self) -> None:
        model, path = self.run.inner, self.options.save
        if path is None:
            return
        if self.options.merge:
            serving = Merged(copy.deepcopy(model))
            serving.put(snapshot(model))
            weights.save(serving.model, self.run.shape, path)
        elif self.run.recipe.trains == EVERYTHING:
            weights.save(model, self.run.shape, path)
        else:
            save_parts(path, snapshot(model), self.run.recipe, self.base)

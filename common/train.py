"""The three scripts' training loop: evaluates, prints, samples. Only training steps are timed."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.utils.data import DistributedSampler

from common import checkpoint
from common.build import build, evaluate, train_step
from common.compiler import missing_compiler
from common.data import Windows, make_loader, read_text, read_tokens, split, to_device
from common.device import GIB, describe_in_child, peak_resident_bytes, pick_type, synchronize
from common.errors import UserError, exit_on_user_error
from common.generate import generate
from common.largest_batch import find_largest, needs_search
from common.measure import Settings
from common.options import (
    Parser,
    Workload,
    add_workload_options,
    seconds,
    whole,
    workload,
    writable_folder,
)
from common.recipe import Recipe

PROMPT = "Every effort moves you"
EVAL_WINDOWS = 8  # of each split: enough for a curve; outside the clock, so it costs no tok/s


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together; by default a single one. See common/distributed.py."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    headroom_gib: float = 0.0  # device memory that training together takes beside the model
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    slowest: Callable[[float], float] = lambda value: value  # the largest of all processes' values
    from_first: Callable[[int], int] = lambda value: value  # the first process's value


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = Parser(description=description.strip().splitlines()[0])
    add_workload_options(parser)
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--epochs", type=whole(1), default=1, metavar="N", help="passes over the text; default: 1")
    add("--max-steps", type=whole(1), metavar="N", help="stop after N steps")
    add("--eval-every", type=whole(1), default=15, metavar="N", help="in steps; default: 15")
    add("--save", type=Path, metavar="FILE", help="write a checkpoint at the end")
    add("--load", type=Path, metavar="FILE", help="start from a checkpoint")
    curve = Path("results/loss.png")
    add("--plot", type=Path, default=curve, metavar="FILE", help=f"loss curve; default: {curve}")
    add("--timeout", type=seconds, default=900.0, metavar="SECONDS", help="for trying one batch")
    return parser


def main(recipe: Recipe, description: str, join=lambda device: contextlib.nullcontext(World())):
    """Train by the recipe, as the command line says.

    `join` opens the context in which the processes train together; the distributed script's own.
    """
    with exit_on_user_error():
        options = make_parser(description).parse_args()
        device_type = pick_type(options.device)
        device = describe_in_child(device_type)
        work = workload(options, device)
        recipe = for_workload(recipe, work, options)
        if recipe.compile and (reason := missing_compiler(device)):
            print(f"training without torch.compile: {reason}", file=sys.stderr)
            recipe = replace(recipe, compile=False)
        with join(device_type) as world:
            try:
                Trainer(recipe, work, options, device_type, world).train()
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"--batch-size {options.batch_size or 'by default'}: the device ran out of "
                    "memory; try a smaller one"
                ) from error
            except KeyboardInterrupt:
                raise SystemExit(130) from None


def for_workload(recipe: Recipe, work: Workload, options: argparse.Namespace) -> Recipe:
    """The script's recipe with the workload's dropout, and its batch unless it is to be found."""
    if options.batch_size or not needs_search(recipe):
        recipe = replace(recipe, batch_size=work.recipe.batch_size)
    return replace(recipe, dropout=work.recipe.dropout)


class Trainer:
    """One training run and what it prints."""

    def __init__(self, recipe: Recipe, work: Workload, options, device_type: str, world: World):
        self.options, self.work, self.world = options, work, world
        self.device = torch.device(device_type, None if device_type == "cpu" else world.local_rank)
        self.say(f"PyTorch version: {torch.__version__}\nUsing {device_type}")
        if device_type == "cuda":
            self.say(f"CUDA version: {torch.version.cuda}")
        self.say()
        for option in ("plot", "save"):
            if path := getattr(options, option):
                writable_folder(f"--{option}", path.parent)
        train, validation = split(read_tokens(read_text(options.text)), work.shape)
        if needs_search(recipe):
            recipe = replace(recipe, batch_size=self.find_batch(recipe, len(train)))
        if recipe.batch_size * world.size > len(train):
            raise UserError(
                f"--batch-size {recipe.batch_size}: with {world.size} process(es) a step wants "
                f"more windows than the text has; at most {len(train) // world.size}"
            )
        self.run = build(recipe, work.shape, self.device, world.wrap)
        if options.load:
            checkpoint.load(self.run, options.load)
        self.sampler = DistributedSampler(train, world.size, world.rank, drop_last=True)
        self.loader = make_loader(train, recipe, self.sampler)
        self.eval_batches = [self.first_windows(windows) for windows in (train, validation)]
        self.history: list[tuple[int, float, float]] = []  # (step, train loss, validation loss)

    def say(self, *parts) -> None:
        if self.world.rank == 0:
            print(*parts, flush=True)

    def find_batch(self, recipe: Recipe, windows: int) -> int:
        """The largest batch that trains here; the first process searches for all."""
        batch = 0
        if self.world.rank == 0:
            found = find_largest(
                recipe,
                self.work.recipe.batch_size,
                Settings(
                    shape=self.work.shape,
                    device=self.device.type,
                    text=self.options.text,
                    headroom_gib=self.world.headroom_gib,
                ),
                windows=windows // self.world.size,
                seconds=self.work.defaults.search_s,
                timeout=self.options.timeout,
                report=self.say,
            )
            batch = found.batch_size
            self.say(f"batch {batch} (the search ended at {found.why})\n")
        return self.world.from_first(batch)

    def first_windows(self, windows: Windows) -> list:
        """The same few windows for every evaluation, in batches that fit beside the training."""
        one_by_one = replace(self.run.recipe, batch_size=1, pin_memory=False)
        count = min(EVAL_WINDOWS, len(windows))
        return [batch for batch, _ in zip(make_loader(windows, one_by_one), range(count))]  # noqa: B905

    def train(self) -> None:
        step, tokens, train_s = -1, 0, 0.0  # tokens and seconds leave out the first step
        batch_tokens = self.run.recipe.batch_size * self.run.shape.context * self.world.size
        limit = self.options.max_steps or self.options.epochs * len(self.loader)
        since, begin = 0, None  # steps and the clock's start since the last evaluation
        for epoch in range(1, self.options.epochs + 1):
            self.sampler.set_epoch(epoch)
            batches = iter(self.loader)
            for place in range(len(self.loader)):
                if begin is None:
                    synchronize(self.device)
                    begin = time.perf_counter()
                inputs, targets = to_device(self.run.recipe, self.device, *next(batches))
                train_step(self.run, inputs, targets)
                step, since = step + 1, since + 1
                last = step + 1 == limit
                end_of_epoch = place + 1 == len(self.loader)
                if not (step % self.options.eval_every == 0 or last or end_of_epoch):
                    continue
                synchronize(self.device)
                elapsed = self.world.slowest(time.perf_counter() - begin)
                if step:
                    tokens, train_s = tokens + since * batch_tokens, train_s + elapsed
                self.print_line(epoch, step, since * batch_tokens / elapsed, tokens, train_s)
                since, begin = 0, None
                if last:
                    break
            self.say(generate(self.run, PROMPT) if self.world.rank == 0 else "")
            if last:
                break
        self.finish()

    def print_line(self, epoch, step, step_rate, tokens, train_s) -> None:
        train, validation = (evaluate(self.run, batches) for batches in self.eval_batches)
        self.history.append((step, train, validation))
        average = tokens / train_s if train_s else 0.0
        line = (
            f"Ep {epoch}, Step {step:06d}, Train: {train:.3f}, Val: {validation:.3f}, "
            f"Step tok/sec: {step_rate:.0f}, Avg tok/sec: {average:.0f}"
        )
        if self.world.size > 1:
            line += f", Per device: {average / self.world.size:.0f}"
        self.say(line)

    def finish(self) -> None:
        if self.world.rank:
            return
        if self.device.type in ("cuda", "xpu"):
            allocated = torch.accelerator.memory_allocated() / GIB
            reserved = torch.accelerator.memory_reserved() / GIB
            notes = ("", "")
        else:
            allocated = psutil.Process().memory_info().rss / GIB
            reserved = peak_resident_bytes() / GIB
            notes = (" (resident set)", " (peak resident set)")
        self.say(f"\nAllocated memory: {allocated:.4f} GB{notes[0]}")
        self.say(f"Reserved memory: {reserved:.4f} GB{notes[1]}")
        if self.options.save:
            checkpoint.save(self.run, self.options.save)
        from common.plot import plot_loss  # matplotlib takes a second to import

        plot_loss(self.history, Path(sys.argv[0]).name, self.options.plot)

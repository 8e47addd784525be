"""The three scripts' training loop: evaluates, prints, samples. Only training steps are timed."""

import collections
import itertools
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from torch.utils.data import DistributedSampler

from common.accelerator.device import synchronize
from common.engine.device import GIB, DeviceFacts, peak_resident_bytes
from common.engine.errors import UserError
from common.engine.options import writable_folder
from common.engine.process import run_job
from common.engine.settle import Trials
from common.gpt import weights
from common.gpt.generate import generate
from common.gpt.text import Windows, read_text, read_tokens, split
from common.scripts.checkpoints import Checkpoints, Position
from common.scripts.world import World
from common.workloads.train.batches import make_loader, to_device
from common.workloads.train.build import build, evaluate, train_step
from common.workloads.train.largest_batch import SearchFailed, find_largest
from common.workloads.train.options import Chosen
from common.workloads.train.recipe import Recipe
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING

PROMPT = "Every effort moves you"
EVAL_WINDOWS = 8  # of each split: enough for a curve; outside the clock, so it costs no tok/s


class Stopwatch:
    """Seconds of training steps only: stopped around everything else."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun = device, None
        self.reset()

    def reset(self) -> None:
        self.seconds, self.steps = 0.0, 0

    def start(self) -> None:
        """Go on, if it is stopped. Waits for the device only then."""
        if self.begun is None:
            synchronize(self.device)
            self.begun = time.perf_counter()

    def stop(self) -> None:
        if self.begun is not None:
            synchronize(self.device)
            self.seconds += time.perf_counter() - self.begun
            self.begun = None


class Trainer:
    """One training run and what it prints."""

    def __init__(self, recipe: Recipe, work: Chosen, options, facts: DeviceFacts, world: World):
        self.options, self.work, self.facts, self.world = options, work, facts, world
        device_type = facts.type
        self.device = torch.device(device_type, None if device_type == "cpu" else world.local_rank)
        self.say(f"PyTorch version: {torch.__version__}\nUsing {device_type}")
        if device_type == "cuda":
            self.say(f"CUDA version: {torch.version.cuda}")
        self.say()
        if world.greeting:
            self.say(world.greeting)
        for option in ("plot", "save"):
            if path := getattr(options, option):
                writable_folder(f"--{option}", path.parent)
        train, validation = split(read_tokens(read_text(options.text)), work.shape)
        self.checkpoints = found = None
        if options.checkpoint:
            self.checkpoints = Checkpoints(options.checkpoint, world, work.shape, self.say)
            found = self.checkpoints.latest()
        if found:  # the batch that was found then: the same tokens in the same order
            recipe = replace(recipe, batch_size=found.batch_size)
        elif TRAINING.is_open(recipe):
            batch = world.from_first(lambda: self.find_batch(recipe, len(train)))
            recipe = replace(recipe, batch_size=batch)
        if recipe.batch_size * world.size > len(train):
            raise UserError(
                f"--batch-size {recipe.batch_size}: with {world.size} process(es) a step wants "
                f"more windows than the text has; at most {len(train) // world.size}"
            )
        self.run = build(recipe, work.shape, self.device, world.wrap)
        if options.load:
            weights.load(self.run.inner, options.load)
        self.sampler = DistributedSampler(train, world.size, world.rank, drop_last=True)
        self.loader = make_loader(train, recipe, self.sampler)
        self.eval_batches = [self.first_windows(windows) for windows in (train, validation)]
        self.history: list[tuple[int, float, float]] = []  # (step, train loss, validation loss)
        self.tokens, self.seconds = 0, 0.0  # of all steps but the first
        self.position = self.checkpoints.load(self.run, found) if found else Position()

    def say(self, *parts) -> None:
        if self.world.rank == 0:
            print(*parts, flush=True)

    def find_batch(self, recipe: Recipe, windows: int) -> int:
        """The largest batch that trains here; the first process searches for all."""
        settings = Settings(
            shape=self.work.shape,
            device=self.device.type,
            text=self.options.text,
            headroom_gib=self.world.headroom_gib,
        )
        trials = Trials(
            workload=TRAINING,
            settings=settings,
            run=lambda job: run_job(job, self.options.timeout),
            tell=self.say,
        )
        try:
            found = find_largest(
                recipe,
                self.work.recipe.batch_size,
                trials,
                windows=windows // self.world.size,
                device_gib=self.facts.memory_gib,
                seconds=self.work.defaults.search_s,
            )
        except SearchFailed as error:
            raise UserError(f"--batch-size: {error}; give one to train without a search") from error
        self.say(f"batch {found.batch_size} (the search ended at {found.why})\n")
        return found.batch_size

    def first_windows(self, windows: Windows) -> list:
        """The same few windows for every evaluation, in batches that fit beside the training.

        Shared out among the processes, whose losses are averaged; each has one at least.
        """
        one_by_one = replace(self.run.recipe, batch_size=1, pin_memory=False)
        loader = make_loader(windows, one_by_one)
        own = range(self.world.rank, min(EVAL_WINDOWS, len(windows)), self.world.size) or range(1)
        return [
            batch
            for place, batch in enumerate(itertools.islice(loader, EVAL_WINDOWS))
            if place in own
        ]

    def train(self) -> None:
        first = self.position
        limit = self.options.max_steps or self.options.epochs * len(self.loader)
        watch = Stopwatch(self.device)
        for epoch in range(first.epoch, self.options.epochs + 1):
            self.sampler.set_epoch(epoch)
            batches = iter(self.loader)
            done = first.batches if epoch == first.epoch else 0
            collections.deque(itertools.islice(batches, done), maxlen=0)  # seen before a restart
            for count in range(done + 1, len(self.loader) + 1):
                watch.start()
                train_step(self.run, *to_device(self.run.recipe, self.device, *next(batches)))
                watch.steps += 1
                self.position = Position(epoch, count, self.position.steps + 1)
                ends = self.position.steps >= limit
                if ends or count == len(self.loader) or self.due():
                    watch.stop()
                    self.print_line(watch)
                if self.save_due(ends):
                    watch.stop()
                    self.checkpoints.save(self.run, self.position)
                if ends:
                    break
            watch.stop()
            if self.world.rank == 0:
                self.say(generate(self.run.inner, self.run.shape, PROMPT))
            if ends:
                break
        self.finish()

    def due(self) -> bool:
        """Whether to evaluate after this step: the first, and then every so many."""
        return (self.position.steps - 1) % self.options.eval_every == 0

    def save_due(self, ends: bool) -> bool:
        every = self.options.checkpoint_every
        return bool(self.checkpoints) and (ends or self.position.steps % every == 0)

    def print_line(self, watch: "Stopwatch") -> None:
        """Evaluate and print; outside the clock, which it reads and sets back."""
        batch = self.run.recipe.batch_size * self.run.shape.context * self.world.size
        seconds, tokens = self.world.slowest(watch.seconds), watch.steps * batch
        if self.history:  # the first step may compile: it is in no average
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        watch.reset()
        train, validation = (
            self.world.mean(evaluate(self.run, batches)) for batches in self.eval_batches
        )
        step = self.position.steps - 1
        self.history.append((step, train, validation))
        average = self.tokens / self.seconds if self.seconds else 0.0
        line = (
            f"Ep {self.position.epoch}, Step {step:06d}, Train: {train:.3f}, "
            f"Val: {validation:.3f}, Step tok/sec: {tokens / seconds:.0f}, "
            f"Avg tok/sec: {average:.0f}"
        )
        if self.world.size > 1:
            line += f", Per device: {average / self.world.size:.0f}"
        self.say(line)

    def finish(self) -> None:
        if self.world.rank:
            return
        row = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": self.facts.name,
            "shape": asdict(self.run.shape),
            "recipe": self.run.recipe.to_json(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "tok_per_s": self.tokens / self.seconds if self.seconds else 0.0,
        }
        for line in self.world.summary(row):
            self.say(line)
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
            weights.save(self.run.inner, self.run.shape, self.options.save)
        from common.workloads.train.plot_losses import plot_loss

        plot_loss(self.history, Path(sys.argv[0]).name, self.options.plot)

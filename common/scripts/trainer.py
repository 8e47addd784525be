"""The three scripts' training loop: evaluates, prints, samples. Only training steps are timed."""

import collections
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from torch.utils.data import DistributedSampler

from common.accelerator.device import synchronize
from common.engine.device import GIB, DeviceFacts, peak_resident_bytes
from common.engine.errors import UserError
from common.engine.process import run_job
from common.engine.settle import Trials
from common.gpt import weights
from common.gpt.samples import generate
from common.gpt.text import Windows, read_text, read_tokens, split
from common.scripts.checkpoints import Checkpoints
from common.scripts.outputs import optional, tell
from common.scripts.position import Found, Position, converted, identity_of, unlike
from common.scripts.waits import Waits
from common.scripts.world import World
from common.workloads.train.batches import make_loader, to_device
from common.workloads.train.build import Run, build, evaluate, seed_dropout, train_step
from common.workloads.train.largest_batch import SearchFailed, find_largest
from common.workloads.train.options import Chosen
from common.workloads.train.recipe import Recipe
from common.workloads.train.schedule import Constant
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING

PROMPT = "Every effort moves you"
EVAL_WINDOWS = 8  # of each split: enough for a curve; outside the clock, so it costs no tok/s


class Stopwatch:
    """Seconds of training steps only: stopped around everything else."""

    def __init__(self, device: torch.device, waits: Waits) -> None:
        self.device, self.waits, self.begun = device, waits, None
        self.reset()

    def reset(self) -> None:
        self.seconds, self.waited, self.steps = 0.0, 0.0, 0

    def start(self) -> None:
        """Go on, if it is stopped. Waits for the device only then."""
        if self.begun is None:
            synchronize(self.device)
            self.waits.start()
            self.begun = time.perf_counter()

    def stop(self) -> None:
        if self.begun is not None:
            synchronize(self.device)
            seconds = time.perf_counter() - self.begun
            self.seconds, self.begun = self.seconds + seconds, None
            self.waits.stop(seconds)

    def next(self, batches: Iterator) -> list[torch.Tensor]:
        """The next batch; the wait for it is timed for itself, too."""
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch


class Trainer:
    """One training run and what it prints."""

    def __init__(self, recipe: Recipe, work: Chosen, options, facts: DeviceFacts, world: World):
        self.options, self.work, self.facts, self.world = options, work, facts, world
        local = None if facts.type == "cpu" else world.local_rank
        self.device = torch.device(facts.type, local)
        self.greet()
        text = read_text(options.text)
        train, validation = split(read_tokens(text), work.shape)
        identity = identity_of(work.shape, recipe, text)
        self.agree(identity)
        self.checkpoints = found = None
        if options.checkpoint:
            self.checkpoints = Checkpoints(options.checkpoint, world, identity, self.say)
            found = self.checkpoints.find()
        recipe = replace(recipe, batch_size=self.batch_for(recipe, len(train), found))
        self.train_windows = train
        self.sampler = DistributedSampler(train, world.size, world.rank, drop_last=True)
        self.loader = make_loader(train, recipe, self.sampler)
        self.run = self.make_run(recipe)
        if options.load and not found:
            weights.load(self.run.inner, options.load)
        seed_dropout(world.rank)
        self.eval_batches = [self.first_windows(windows) for windows in (train, validation)]
        self.waits = Waits(facts.type, facts.name, world.local_rank)
        self.watch = Stopwatch(self.device, self.waits)
        self.lines = 0  # printed by this process
        self.tokens, self.seconds = 0, 0.0  # of all steps but the first
        self.position = Position()
        # (step, train loss, validation loss, learning rate)
        self.history: list[tuple] = []
        if found:
            self.go_on_from(found)

    def make_run(self, recipe: Recipe) -> Run:
        return build(recipe, self.work.shape, self.device, self.world.wrap, self.updates(recipe))

    def greet(self) -> None:
        self.say(f"PyTorch version: {torch.__version__}\nUsing {self.device.type}")
        if self.device.type == "cuda":
            self.say(f"CUDA version: {torch.version.cuda}")
        self.say()
        if self.world.greeting:
            self.say(self.world.greeting)

    def say(self, *parts) -> None:
        if self.world.rank == 0:
            tell(*parts)

    def agree(self, identity: dict) -> None:
        """Raises UserError where a process would train on another text, say, than the first."""
        first, *others = self.world.from_all(identity)
        for rank, other in enumerate(others, start=1):
            if words := unlike(other, first):
                raise UserError(f"rank {rank} was given {words}; rank 0's must be the same")

    def batch_for(self, recipe: Recipe, windows: int, found: Found | None) -> int:
        """The batch that was asked for, went before, or is found. Raises UserError if too large."""
        batch = recipe.batch_size
        if found and not self.options.batch_size:
            batch = found.batch_size  # the same tokens in the same order
        elif TRAINING.is_open(recipe):
            batch = self.world.from_first(lambda: self.find_batch(recipe, windows))
        if batch * self.world.size > windows:
            raise UserError(
                f"--batch-size {batch}: with {self.world.size} process(es) a step wants "
                f"more windows than the text has; at most {windows // self.world.size}"
            )
        return batch

    def go_on_from(self, found: Found) -> None:
        self.checkpoints.load(self.run, found)
        if self.options.load:
            self.say(f"--load {self.options.load} was for the start; it is not read again")
        self.history = found.history
        here = self.run.recipe.batch_size * self.world.size
        self.position = converted(found, here, len(self.loader))
        self.go_on_with_schedule(found)
        if here != found.windows:
            self.say(
                f"a step had {found.windows} window(s) ({found.processes} process(es)), and has "
                f"{here} now ({self.world.size}): goes on at the same place in the text, or less "
                "than a step before it"
            )

    def updates(self, recipe: Recipe) -> int:
        """In all. Raises UserError where the learning rate would rise for longer."""
        found = self.options.epochs * len(self.loader)
        found = min(found, self.options.max_steps or found)
        if recipe.warmup > found:
            raise UserError(
                f"--warmup-steps {recipe.warmup}: longer than the training, of {found} steps; at "
                f"most {found}"
            )
        return found

    def go_on_with_schedule(self, found: Found) -> None:
        rates, before = self.run.rates, found.updates
        rates.done = self.position.steps
        now = rates.schedule.updates
        if before not in (None, now) and not isinstance(rates.schedule, Constant):
            self.say(
                f"the learning rate's schedule was one of {before} steps and is one of {now} now: "
                f"it goes on at {rates.now:.2g}"
            )

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
        """Train what is left to do, and say how it went."""
        begun = self.position
        if self.over():
            self.say(self.nothing_to_do())
            self.world.from_first(self.save_weights)
        while not self.over():
            self.train_epoch()
            self.world.from_first(self.sample)
        if self.world.rank == 0:
            if self.position != begun:
                self.summarise()
            self.plot()

    def over(self) -> bool:
        """Whether the limits, which are totals over all starts, are reached."""
        steps, epochs = self.options.max_steps, self.options.epochs
        return self.position.epoch > epochs or bool(steps and self.position.steps >= steps)

    def nothing_to_do(self) -> str:
        epochs, steps = self.position.epoch - 1, self.position.steps
        limits = [f"--epochs {self.options.epochs}"]
        limits += [f"--max-steps {self.options.max_steps}"] if self.options.max_steps else []
        return (
            f"nothing to do: {epochs} epoch(s) and {steps} step(s) are done, and the limits, "
            f"{' and '.join(limits)}, are totals; give larger ones to train on"
        )

    def train_epoch(self) -> None:
        """Train to the epoch's end, or to a limit."""
        epoch, done, last = self.position.epoch, self.position.batches, len(self.loader)
        batches = self.batches(epoch, done)
        for count in range(done + 1, last + 1):
            self.watch.start()
            train_step(
                self.run, *to_device(self.run.recipe, self.device, *self.watch.next(batches))
            )
            self.watch.steps += 1
            steps = self.position.steps + 1
            ends = count == last
            self.position = Position(epoch + ends, 0 if ends else count, steps)
            if self.over() or ends or self.due():
                self.watch.stop()
                if self.over():  # before all else: nothing that fails later can lose them
                    self.world.from_first(self.save_weights)
                self.print_line(epoch)
            if self.save_due():
                self.watch.stop()
                self.checkpoints.save(self.run, self.position, self.history)
            if self.over():
                break

    def batches(self, epoch: int, done: int) -> Iterator:
        """An epoch's batches after those that are done."""
        self.sampler.set_epoch(epoch)
        with torch.random.fork_rng(devices=[]):  # a loader draws a number that dropout would miss
            batches = iter(self.loader)
            collections.deque(itertools.islice(batches, done), maxlen=0)
        return batches

    def due(self) -> bool:
        """Whether to evaluate after this step: the first, and then every so many."""
        return (self.position.steps - 1) % self.options.eval_every == 0

    def save_due(self) -> bool:
        every = self.options.checkpoint_every
        return bool(self.checkpoints) and (self.over() or self.position.steps % every == 0)

    def save_weights(self) -> None:
        if self.options.save:
            weights.save(self.run.inner, self.run.shape, self.options.save)

    def sample(self) -> None:
        with optional("sampling"):
            self.say(generate(self.run.inner, self.run.shape, PROMPT))

    def print_line(self, epoch: int) -> None:
        """Evaluate and print; outside the clock, which it reads and sets back."""
        watch = self.watch
        batch = self.run.recipe.batch_size * self.run.shape.context * self.world.size
        seconds, tokens = self.world.slowest(watch.seconds), watch.steps * batch
        waited = self.world.slowest(watch.waited)
        if self.lines:  # the first step may compile: it is in no average
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
            self.waits.take(seconds, waited)
        else:
            self.waits.drop()
        watch.reset()
        self.lines += 1
        train, validation = (
            self.world.mean(evaluate(self.run, batches)) for batches in self.eval_batches
        )
        step = self.position.steps - 1
        rate = self.run.optimizer.param_groups[0]["lr"]
        self.history.append((step, train, validation, rate))
        average = self.tokens / self.seconds if self.seconds else 0.0
        line = (
            f"Ep {epoch}, Step {step:06d}, Train: {train:.3f}, "
            f"Val: {validation:.3f}, Step tok/sec: {tokens / seconds:.0f}, "
            f"Avg tok/sec: {average:.0f}"
        )
        if self.world.size > 1:
            line += f", Per device: {average / self.world.size:.0f}"
        self.say(line)

    def summarise(self) -> None:
        """What was reached, and in how much memory."""
        row = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": self.facts.name,
            "shape": asdict(self.run.shape),
            "recipe": self.run.recipe.to_json(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "tok_per_s": self.tokens / self.seconds if self.seconds else 0.0,
        }
        with optional(f"the record {getattr(self.options, 'record', '')}"):
            for line in self.world.summary(row):
                self.say(line)
        with optional("reading the waits"):
            workers = getattr(self.loader, "num_workers", None)
            if line := self.waits.line(self.run.recipe.batch_size, workers, self.world.size):
                self.say(line)
        with optional("reading the memory"):
            self.say_memory()

    def say_memory(self) -> None:
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

    def plot(self) -> None:
        with optional(f"the loss curve {self.options.plot}"):
            from common.workloads.train.plot_losses import plot_loss

            if self.history:
                plot_loss(self.history, Path(sys.argv[0]).name, self.options.plot)

"""One clock for every rung. It runs around training steps only.

Outside it: start-up, building, compilation, warm-up, probes, evaluation. Inside it: fetching the
batch, copying it, forward, backward, update. The device is synchronised at the window's two edges
only; on CUDA and XPU the steps between are timed by events that the device itself records.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch

from common.build import Run, build, evaluate, train_step
from common.compiler import compiled_graphs
from common.data import Endless, make_loader, read_text, read_tokens, split, to_device
from common.device import GIB, PeakMemory, give_back, synchronize
from common.profiling import marked, profile_or_reason
from common.recipe import Recipe, Shape

DATA_SEED = 7  # the same windows in the same order at every rung
VALIDATION_WINDOWS = 8  # of the held-out text: outside the clock, so it costs no tok/s


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure; the same for every rung of a run."""

    shape: Shape
    device: str  # cuda, mps, xpu, cpu
    steps: int = 1  # timed
    warmup: int = 2  # before them: the first may compile, the second is profiled for the probes
    text: str | None = None  # a file; None: what `read_text` finds
    headroom_gib: float = 0.0  # device memory to leave free
    validate: bool = False  # also the loss on held-out text, after the timed steps
    profile: bool = False  # a few steps more, after the timed ones
    trace: str | None = None  # a file for what the profile saw

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict) -> "Settings":
        return cls(**plain | {"shape": Shape(**plain["shape"])})


@dataclass(kw_only=True)
class Measurement:
    """Raw results of one rung in one process. Times in seconds, memory in GiB."""

    step_s: list[float]  # every timed step
    window_s: float  # host time from edge to edge, both synchronised
    first_step_s: float  # compilation included
    data_wait_s: float  # host time in the window spent waiting for batches
    losses: list[float]  # training loss in nats of every step, warm-up first
    tokens_per_step: int
    peak_reserved_gib: float
    peak_allocated_gib: float | None  # None: not counted on this device
    cpu_share: float  # of this machine's cores, that this process used in the window
    text_sha256: str
    text_source: str
    in_effect: dict[str, str] = field(default_factory=dict)  # by rung number
    validation_loss: float | None = None  # in nats, after the last step; None: not asked for
    startup_s: float = 0.0  # from the window's side: everything before the first step
    parallel: dict = field(default_factory=dict)  # of several processes; empty for one
    profile: dict = field(default_factory=dict)  # as profile_steps returns it; empty: not asked for
    profile_failed: str = ""  # why there is none, where one was asked for


class Disturbed(Exception):
    """Something in the timed window makes its figure void. Measuring again may help."""


class HostClock:
    """Marks on the host's clock, each after the device has finished. For devices without events."""

    def __init__(self, wait: Callable[[], None], now: Callable[[], float] = time.perf_counter):
        self.wait, self.now, self.marks = wait, now, []

    def mark(self) -> None:
        self.wait()
        self.marks.append(self.now())

    def step_seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


class EventClock:
    """Marks that the device records as it passes them; the host does not wait."""

    def __init__(self, wait: Callable[[], None], event: Callable[[], torch.Event]) -> None:
        self.wait, self.event, self.marks = wait, event, []

    def mark(self) -> None:
        self.marks.append(self.event())
        self.marks[-1].record()

    def step_seconds(self) -> list[float]:
        self.wait()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]  # ms -> s


def make_clock(device: torch.device) -> HostClock | EventClock:
    def wait() -> None:
        synchronize(device)

    if device.type in ("cuda", "xpu"):
        return EventClock(wait, lambda: torch.Event(device, enable_timing=True))
    return HostClock(wait)


def time_steps(step: Callable[[], None], count: int, clock, wait: Callable[[], None]):
    """Run `step` `count` times. Returns (seconds of each, host seconds from edge to edge)."""
    wait()
    begin = time.perf_counter()
    clock.mark()
    for _ in range(count):
        step()
        clock.mark()
    wait()
    window_s = time.perf_counter() - begin
    return clock.step_seconds(), window_s


def measure(
    recipe: Recipe,
    settings: Settings,
    probe: Callable[[Run], dict[str, str]] = lambda run: {},
    report: Callable[[str], None] = lambda phase: None,
) -> Measurement:
    """Train for a few steps and time them.

    `probe` looks at the run before the clock starts and raises NotInEffect to stop it; `report`
    is told each phase as it begins. Raises Disturbed if the window turns out to be void.
    """
    begin = time.perf_counter()
    report("building")
    device = torch.device(settings.device)
    text = read_text(settings.text)
    windows, held_out = split(read_tokens(text), settings.shape)
    headroom = torch.empty(int(settings.headroom_gib * GIB), dtype=torch.uint8, device=device)
    run = build(recipe, settings.shape, device)
    batches = iter(make_loader(windows, recipe, Endless(windows, DATA_SEED)))
    losses, data_wait, seen = [], [0.0], []

    def step() -> None:
        asked = time.perf_counter()
        run.batch = next(batches)
        data_wait[0] += time.perf_counter() - asked
        seen.append(run.batch[0])  # kept for the audit; token ids are small
        losses.append(train_step(run, *to_device(recipe, device, *run.batch)))

    report("first step")
    synchronize(device)
    startup_s = time.perf_counter() - begin
    (first_step_s,), _ = time_steps(step, 1, make_clock(device), lambda: synchronize(device))
    report("warming up")
    give_back(device)  # what the check before and autotuning took is not this recipe's peak
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    run.operators = frozenset(event.name for event in profile.events())
    for _ in range(settings.warmup - 2):
        step()
    run.graphs, run.graph_breaks = compiled_graphs()
    in_effect = probe(run)

    report("timing")
    data_wait[0] = 0.0
    weights = run.inner.head.weight.detach().clone()
    memory = PeakMemory(device)
    memory.reset()
    cpu_before = time.process_time()
    step_s, window_s = time_steps(
        step, settings.steps, make_clock(device), lambda: synchronize(device)
    )
    cpu_s = time.process_time() - cpu_before
    report("timed")
    reserved, allocated = memory.read()
    del headroom
    audit(run, seen, weights)
    found = Measurement(
        step_s=step_s,
        window_s=window_s,
        first_step_s=first_step_s,
        data_wait_s=data_wait[0],
        losses=[loss.item() for loss in losses],
        tokens_per_step=recipe.batch_size * settings.shape.context,
        peak_reserved_gib=reserved,
        cpu_share=cpu_s / window_s / (os.cpu_count() or 1),
        peak_allocated_gib=allocated,
        text_sha256=text.sha256,
        text_source=text.source,
        in_effect=in_effect,
        startup_s=startup_s,
    )
    if settings.validate:
        report("validating")
        one_by_one = make_loader(held_out, replace(recipe, batch_size=1, pin_memory=False))
        found.validation_loss = evaluate(run, itertools.islice(one_by_one, VALIDATION_WINDOWS))
    if settings.profile:
        report("profiling")
        batches = marked(batches)
        found.profile, found.profile_failed = profile_or_reason(step, run, settings.trace)
    return found


def audit(run: Run, seen: list[torch.Tensor], weights_before: torch.Tensor) -> None:
    """Did the window really train? Raises Disturbed if not.

    `seen`: the inputs of every step, on the host; `weights_before`: the head's, before the window.
    """
    if compiled_graphs()[0] != run.graphs:
        raise Disturbed("the model was compiled again inside the timed window")
    updates = {int(state["step"]) for state in run.optimizer.state.values()}
    if updates != {len(seen)}:
        raise Disturbed(f"{len(seen)} steps made {sorted(updates)} updates of the parameters")
    if torch.equal(run.inner.head.weight, weights_before):
        raise Disturbed("the weights did not change in the timed window")
    repeated = sum(torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))
    if repeated and len(seen) > 2:
        raise Disturbed(f"{repeated} steps were fed the batch of the step before")

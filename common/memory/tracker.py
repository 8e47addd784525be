"""A tracker of tensor memory, for any training loop.

    from common.memory.tracker import Tracker

    with Tracker() as tracker:
        tracker.phase("build")
        model, optimizer = ...
        tracker.follow(model, optimizer)  # forward, backward, update by themselves
        for inputs, targets in batches:
            ...                           # one update
            tracker.step()
    for found in (*tracker.leaks(), *tracker.graphs):
        print(found)

Instead of `follow`, `phase(name)` may begin each phase. What is counted are the bytes of storages,
each once however many views it has, from the operation that makes it to the moment that it is
freed: exact, and the same on every device. What a kernel takes inside one operation, allocators'
rounding, and compiled graphs are not seen. tracemalloc would see no tensors at all
(github.com/pytorch/pytorch/issues/91823).
"""

import gc
import weakref
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.memory.growth import Graph, Leak, graph_kept, grown, held_by
from common.memory.sites import BEFORE, Line, Site, in_backward, node_here, trail_here
from common.memory.snapshot import snapshot_to

BETWEEN = "between"  # steps: from `step` to the next forward pass. Gradients are freed here


@dataclass(slots=True, weakref_slot=True)
class Block:
    """A storage that is alive."""

    size: int  # bytes
    site: Site
    trail: tuple[Line, ...]  # from the site outwards
    step: int  # in which it was made, from 1; 0: before the first
    phase: str
    order: int  # of its making
    tensor: weakref.ref  # the first one that showed it


@dataclass(slots=True)
class Phase:
    """A stretch of the run, and the live bytes in it. Steps count from 1; 0: before the first."""

    step: int
    name: str
    peak: int
    after: int  # alive at its end
    change: int = 0


class Tracker(TorchDispatchMode):
    """Counts tensor bytes by phase, and knows at which line each that is alive was made.

    `snapshot`: a file for what CUDA's allocator saw, for pytorch.org/memory_viz.
    """

    def __init__(self, snapshot: Path | None = None) -> None:
        super().__init__()
        self.live: dict[int, Block] = {}  # by the storage's address
        self.refs: dict[int, weakref.ref] = {}
        self.bytes, self.made, self.steps = 0, 0, 0
        self.phases: list[Phase] = []
        self.held: list[Counter[Site]] = []  # live bytes by site, at the end of each step
        self.asked: dict[Site, tuple[tuple[Line, ...], str]] = {}  # how last: trail and phase
        self.graphs: list[Graph] = []  # kept alive by tensors of earlier steps
        self.collected: Counter[Site] = Counter()  # bytes that collecting garbage freed
        self.follows, self.hooks = False, []
        self.snapshot = snapshot_to(snapshot)
        self.phase("build")

    def __enter__(self) -> "Tracker":
        self.snapshot.__enter__()
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        before = held_by(self.live.values())
        gc.collect()  # to tell reference cycles from what is held
        self.collected = before - held_by(self.live.values())
        super().__exit__(*exception)
        for hook in self.hooks:
            hook.remove()
        self.snapshot.__exit__(*exception)

    # -- phases --

    def phase(self, name: str) -> None:
        """Begin a phase; the one before it ends."""
        step = 0 if name == "build" else self.steps + 1
        self.phases.append(Phase(step, name, peak=self.bytes, after=self.bytes))

    def step(self) -> None:
        """One update is done: remember what is alive at its end."""
        self.steps += 1
        self.held.append(held_by(self.live.values()))
        self.graphs = graph_kept(self.live.values(), self.steps)
        self.phase(BETWEEN)

    def follow(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the phases begin by themselves: forward, backward, update, and what is between.

        `model`: whose forward pass begins it all, the loss included if it may be.
        """
        self.follows = True
        self.hooks += [
            model.register_forward_pre_hook(lambda *_: self.phase("forward")),
            optimizer.register_step_pre_hook(lambda *_: self.phase("update")),
        ]
        self.phase(BETWEEN)

    # -- counting --

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.follows and self.phases[-1].name == "forward" and in_backward():
            self.phase("backward")
        for tensor in tree_leaves((args, kwargs)):  # or a view of what was there would count as new
            if isinstance(tensor, torch.Tensor):
                self.register(tensor, BEFORE, ())
        results = operator(*args, **kwargs)
        trail = None
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and address(tensor) not in self.live:
                trail = trail_here() if trail is None else trail
                self.register(tensor, Site(trail[0] if trail else None, node_here()), trail)
        return results

    def register(self, tensor: torch.Tensor, site: Site, trail: tuple[Line, ...]) -> None:
        """Count a tensor's storage, if it is not yet."""
        key = address(tensor)
        if key in self.live:
            return
        storage, self.made = tensor.untyped_storage(), self.made + 1
        now, seen = self.phases[-1], weakref.ref(tensor)
        block = Block(storage.nbytes(), site, trail, now.step, now.name, self.made, seen)
        self.live[key] = block
        self.asked[site] = trail, now.name
        tracker = weakref.ref(self)  # which its own storages must not keep alive
        self.refs[key] = weakref.ref(storage, lambda _: tracker() and tracker().free(key))
        self.change(block.size)

    def free(self, key: int) -> None:
        self.refs.pop(key, None)
        if block := self.live.pop(key, None):
            self.change(-block.size)

    def change(self, size: int) -> None:
        now = self.phases[-1]
        self.bytes += size
        now.change += size
        now.after, now.peak = self.bytes, max(now.peak, self.bytes)

    # -- what was seen --

    def summary(self) -> list[Phase]:
        """The phases in the order of their first time, each once a step: of several, the sum of
        the changes and the highest peak. Stretches in which nothing happened are left out.
        """
        found: dict[tuple[int, str], Phase] = {}
        for phase in self.phases:
            if not phase.change and phase.peak == phase.after and phase.name == BETWEEN:
                continue
            first = found.setdefault((phase.step, phase.name), replace(phase, change=0))
            first.change += phase.change
            first.peak, first.after = max(first.peak, phase.peak), phase.after
        return [*found.values()]

    def leaks(self) -> list[Leak]:
        """The lines whose memory grew from step to step, the most first."""
        return grown(self.held, self.asked, self.collected)


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata

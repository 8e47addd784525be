"""The bytes of tensors that are alive in an update, and what they are for: counted, not measured.

A storage counts once, however many tensors look at it, from the operator that made it to its end.
What an operator takes and gives back within itself is not seen. A count repeats exactly, where the
resident set and an allocator's pools depend on what went before.
"""

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.workloads.train.build import Run

# what a storage is for; a temporary is what is none of the others
KINDS = PARAMETER, GRADIENT, OPTIMIZER, ACTIVATION, TEMPORARY = (
    *("parameter", "gradient", "optimizer", "activation", "temporary"),
)
# what an update is doing; before the forward pass it fetches its batch and clears gradients
PHASES = START, FORWARD, BACKWARD, UPDATE = "start", "forward", "backward", "update"


@dataclass(slots=True, eq=False)
class Held:
    """A storage. Times are numbers of events: each birth and each end is one."""

    nbytes: int
    device: str  # the type
    born: int
    phase: str  # in which it was made
    kind: str = TEMPORARY
    ended: float = float("inf")
    end: weakref.ref | None = None  # keeps the callback at its end
    operator: str = ""  # that made it


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The most that was alive at a time in an update, in bytes."""

    peak: int
    parts: dict[str, int]  # of the peak, by KINDS; they sum to it
    phase: str  # in which the peak was reached
    host: int | None  # likewise on the host; None where the device is the host


class TensorMemory(TorchDispatchMode):
    """Follows every storage that operators make while it is entered, and those it was told of.

    Set `phase` as the update goes on. `records` has every storage, in the order of births.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Held] = []
        self.alive: dict[int, Held] = {}  # by the storage's address, which a later one may get
        self.live: Counter[str] = Counter()  # bytes, by device type
        self.peaks: Counter[str] = Counter()
        self.at: dict[str, int] = {}  # the event of each peak
        self.now = 0
        self._phase, self.begun = START, 0

    @property
    def phase(self) -> str:
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        """What the forward pass made and has not given back is kept for the backward pass."""
        if self._phase == FORWARD != phase:
            for held in self.alive.values():
                if held.born >= self.begun and held.kind == TEMPORARY:
                    held.kind = ACTIVATION
        self._phase, self.begun = phase, self.now

    def know(self, kind: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what tensors are for: of before, or, at any time, of those that were seen."""
        for tensor in tensors:
            if (held := self.meet(tensor)) is not None:
                held.kind = kind

    def meet(self, tensor: torch.Tensor) -> Held | None:
        """A tensor that no operator made while this looked: it has been there all the time."""
        if tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        if (held := self.alive.get(storage._cdata)) is not None:
            return held
        self.peaks[storage.device.type] += storage.nbytes()
        return self.bear(storage, born=0, phase=START)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self.meet(leaf)
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
                self.made(leaf.untyped_storage(), func)
        return result

    def made(self, storage: torch.UntypedStorage, func) -> None:
        """A result: of a new storage, of one that is known, or of one that was resized."""
        held = self.alive.get(storage._cdata)
        if held is not None:
            if held.nbytes == storage.nbytes():
                return
            self.end(storage._cdata)
        self.now += 1
        grown = self.bear(storage, born=self.now, phase=self.phase)
        grown.kind = held.kind if held else TEMPORARY
        grown.operator = str(func)

    def bear(self, storage: torch.UntypedStorage, born: int, phase: str) -> Held:
        key, device = storage._cdata, storage.device.type
        held = Held(storage.nbytes(), device, born, phase)
        held.end = weakref.ref(storage, partial(self.end, key))
        self.records.append(held)
        self.alive[key] = held
        self.live[device] += held.nbytes
        if self.live[device] > self.peaks[device]:
            self.peaks[device], self.at[device] = self.live[device], self.now
        return held

    def end(self, key: int, *of_weakref) -> None:
        held = self.alive.pop(key)
        self.now += 1
        held.ended = self.now
        self.live[held.device] -= held.nbytes

    def parts(self, device: str) -> dict[str, int]:
        """The peak on a device type, by KINDS."""
        at, found = self.at.get(device, 0), dict.fromkeys(KINDS, 0)
        for held in self.records:
            if held.device == device and held.born <= at < held.ended:
                found[held.kind] += held.nbytes
        return found

    def phase_at_peak(self, device: str) -> str:
        """The phase of what was made last before the peak."""
        at = self.at.get(device, 0)
        return next((held.phase for held in reversed(self.records) if held.born <= at), START)


def count_update(run: Run, update: Callable[[], object]) -> Counted:
    """What one update of the run holds at most: `update` is called once.

    The recipe's optimizer should have made an update before, so that its state is there.
    """
    gc.collect()  # what only the collector can end would end at a random time
    collecting = gc.isenabled()
    gc.disable()
    try:
        with followed(run) as memory:
            update()
    finally:
        if collecting:
            gc.enable()
    device = run.device.type
    return Counted(
        peak=memory.peaks[device],
        parts=memory.parts(device),
        phase=memory.phase_at_peak(device),
        host=None if device == "cpu" else memory.peaks["cpu"],
    )


@contextmanager
def followed(run: Run) -> Iterator[TensorMemory]:
    """Follow the tensors of a run, told apart by kind and phase, for as long as the block lasts."""
    memory = TensorMemory()
    parameters = list(run.model.parameters())

    def enter(phase: str):
        def hook(*of_hook) -> None:
            memory.phase = phase

        return hook

    def before_update(optimizer, *of_hook) -> None:
        memory.phase = UPDATE
        groups = (group["params"] for group in optimizer.param_groups)
        memory.know(GRADIENT, gradients(parameter for group in groups for parameter in group))

    memory.know(PARAMETER, (*parameters, *run.model.buffers()))
    memory.know(GRADIENT, gradients(parameters))
    memory.know(OPTIMIZER, states(run.optimizer))
    hooks = (
        run.objective.register_forward_pre_hook(enter(FORWARD)),
        run.objective.register_forward_hook(enter(BACKWARD)),
        register_optimizer_step_pre_hook(before_update),
        register_optimizer_step_post_hook(enter(BACKWARD)),
    )
    try:
        with memory:
            yield memory
    finally:
        for hook in hooks:
            hook.remove()
        memory.know(GRADIENT, gradients(parameters))  # of updates that were skipped, too
        memory.know(OPTIMIZER, states(run.optimizer))


def gradients(parameters: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (parameter.grad for parameter in parameters if parameter.grad is not None)


def states(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """What the optimizer keeps from one update to the next."""
    leaves = tree_leaves(list(optimizer.state.values()))
    return (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

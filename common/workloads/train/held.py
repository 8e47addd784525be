"""Follows the storages of tensors from birth to end, while operators run.

A storage counts once, however many tensors look at it, from the operator that made it to its end.
What an operator takes and gives back within itself is not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    operator: str = ""  # that made it
    reference: weakref.ref | None = None  # to the storage; calls back at its end


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
        self.calls: Counter[tuple[str, str]] = Counter()  # by operator and format of the result
        self.phases: list[tuple[int, str]] = [(0, START)]  # by the event at which each began
        self.now = 0

    @property
    def phase(self) -> str:
        return self.phases[-1][1]

    @phase.setter
    def phase(self, phase: str) -> None:
        """What the forward pass made and has not given back is kept for the backward pass."""
        begun, before = self.phases[-1]
        if before == FORWARD:
            for held in self.alive.values():
                if held.born > begun and held.kind == TEMPORARY:
                    held.kind = ACTIVATION
        self.phases.append((self.now, phase))

    def know(self, kind: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what tensors are for: of before, or, at any time, of those that were seen."""
        for tensor in tensors:
            if (held := self.meet(tensor)) is not None:
                held.kind = kind

    def meet(self, tensor: torch.Tensor) -> Held | None:
        """A tensor that no operator made while this looked has been there all the time."""
        if tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        if (held := self.alive.get(storage._cdata)) is not None:
            return held
        self.peaks[tensor.device.type] += storage.nbytes()
        return self.bear(tensor, born=0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self.meet(leaf)
        result = func(*args, **kwargs or {})
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.calls[str(func), str(made[0].dtype).removeprefix("torch.") if made else ""] += 1
        for leaf in made:
            if leaf.layout is torch.strided:
                self.made(leaf, str(func))
        return result

    def made(self, tensor: torch.Tensor, operator: str) -> None:
        """A result's storage: a new one, one that is known, or one that was resized."""
        storage = tensor.untyped_storage()
        before = self.alive.get(storage._cdata)
        if before is not None:
            if before.nbytes == storage.nbytes():
                return
            self.end(storage._cdata)
        self.now += 1
        held = self.bear(tensor, born=self.now)
        held.operator = operator
        held.kind = before.kind if before else TEMPORARY

    def bear(self, tensor: torch.Tensor, born: int) -> Held:
        storage, device = tensor.untyped_storage(), tensor.device.type  # a fake one's is "meta"
        key = storage._cdata
        held = Held(storage.nbytes(), device, born, self.phase if born else START)
        held.reference = weakref.ref(storage, partial(self.end, key))
        self.records.append(held)
        self.alive[key] = held
        self.live[device] += held.nbytes
        if self.live[device] > self.peaks[device]:
            self.peaks[device], self.at[device] = self.live[device], self.now
        return held

    def end(self, key: int, *of_reference) -> None:
        held = self.alive.pop(key)
        self.now += 1
        held.ended, held.reference = self.now, None  # a resized one must not end twice
        self.live[held.device] -= held.nbytes

    def parts(self, device: str, at: int) -> dict[str, int]:
        """The bytes on a device type that were alive after an event, by KINDS."""
        found = dict.fromkeys(KINDS, 0)
        for held in self.records:
            if held.device == device and held.born <= at < held.ended:
                found[held.kind] += held.nbytes
        return found

    def most(self, device: str, kind: str) -> int:
        """The most bytes of a kind that were alive at a time."""
        changes: Counter[float] = Counter()
        for held in self.records:
            if held.device == device and held.kind == kind:
                changes[held.born] += held.nbytes
                changes[held.ended] -= held.nbytes
        live = most = 0
        for event in sorted(changes):
            live += changes[event]
            most = max(most, live)
        return most

    def phase_at(self, event: int) -> str:
        """The phase in which an event was."""
        return [phase for begun, phase in self.phases if begun < max(event, 1)][-1]

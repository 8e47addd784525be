"""The bytes of tensors that are alive in an update, and what they are for: counted, not measured.

A count repeats exactly, where the resident set and an allocator's pools depend on what went before.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._pytree import tree_leaves

from common.workloads.train.build import Run
from common.workloads.train.held import (
    BACKWARD,
    FORWARD,
    GRADIENT,
    OPTIMIZER,
    PARAMETER,
    UPDATE,
    TensorMemory,
)

PRODUCTS = ("aten.mm.default", "aten.addmm.default")  # what linear layers come down to


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What an update held, in bytes, and what it did."""

    peak: int  # the most at a time, on the device
    parts: dict[str, int]  # of the peak, by KINDS; they sum to it
    phase: str  # in which the peak was reached
    host: int | None  # the most at a time on the host; None where the device is the host
    before: dict[str, int]  # when the first forward pass began, by KINDS
    gradients: int  # the most at a time
    forwards: int  # passes through the objective
    blocks: int  # passes through a block, those of the backward pass too
    calls: dict[str, int]  # of operators
    products: frozenset[str]  # number formats of what linear layers gave

    def to_json(self) -> dict:
        """As records have it, without the operators' long list."""
        values = asdict(self) | {"products": sorted(self.products)}
        return {name: value for name, value in values.items() if name != "calls"}


def count_update(run: Run, update: Callable[[], object]) -> Counted:
    """What one update of the run holds at most: `update` is called once.

    The recipe's optimizer should have made an update before, so that its state is there.
    """
    gc.collect()  # what only the collector can end would end at a random time
    collecting = gc.isenabled()
    gc.disable()
    blocks = Counter()

    def count_block(*of_hook) -> None:
        blocks["passes"] += 1

    hooks = [block.norm1.register_forward_hook(count_block) for block in run.inner.blocks]
    try:
        with followed(run) as memory:
            update()
    finally:
        for hook in hooks:
            hook.remove()
        if collecting:
            gc.enable()
    return summed_up(memory, run.device.type, blocks["passes"])


def summed_up(memory: TensorMemory, device: str, blocks: int) -> Counted:
    begins = [event for event, phase in memory.phases if phase == FORWARD]
    calls: Counter[str] = Counter()
    for (operator, _), count in memory.calls.items():
        calls[operator] += count
    at = memory.at.get(device, 0)
    return Counted(
        peak=memory.peaks[device],
        parts=memory.parts(device, at),
        phase=memory.phase_at(at),
        host=None if device == "cpu" else memory.peaks["cpu"],
        before=memory.parts(device, begins[0] if begins else 0),
        gradients=memory.most(device, GRADIENT),
        forwards=len(begins),
        blocks=blocks,
        calls=dict(calls),
        products=frozenset(name for operator, name in memory.calls if operator in PRODUCTS),
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
        register_optimizer_step_post_hook(enter(BACKWARD)),  # of one parameter, perhaps
    )
    try:
        with memory:
            yield memory
    finally:
        for hook in hooks:
            hook.remove()
        memory.know(GRADIENT, gradients(parameters))  # of an update that was skipped, too
        memory.know(OPTIMIZER, states(run.optimizer))


def gradients(parameters: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (parameter.grad for parameter in parameters if parameter.grad is not None)


def states(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """What the optimizer keeps from one update to the next."""
    leaves = tree_leaves(list(optimizer.state.values()))
    return (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

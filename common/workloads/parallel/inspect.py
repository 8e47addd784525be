"""What one step of several processes takes: bytes sent, and bytes held for what."""

from collections import Counter
from collections.abc import Iterable

import torch
import torch.distributed as dist

from common.accelerator.device import synchronize
from common.workloads.parallel.layout import ParallelRun, forward_backward, local, own_windows
from common.workloads.parallel.processes import BACKENDS


def largest(values: Iterable[float]) -> list[float]:
    """Each value's maximum over all processes, which call this together."""
    return reduced(values, dist.ReduceOp.MAX)


def total(value: float) -> float:
    """The sum over all processes, which call this together."""
    return reduced([value], dist.ReduceOp.SUM)[0]


def reduced(values: Iterable[float], operation) -> list[float]:
    tensor = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if dist.get_backend() in BACKENDS.values():  # they reduce tensors of their devices only
        tensor = tensor.to(torch.accelerator.current_accelerator())
    if dist.get_world_size() > 1:
        dist.all_reduce(tensor, operation)
    return tensor.tolist()


def look_into(run: ParallelRun, step) -> None:
    """One profiled step: which operators ran, and what was handed to the network."""
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    sent: Counter = Counter()
    for event in profile.events():
        backend, _, name = event.name.partition(":")
        if backend in ("gloo", "nccl", "xccl") and not name.startswith("recv"):
            elements = sum(count(shape) for shape in event.input_shapes)
            sent[name.strip("_").removesuffix("_base").replace("allreduce", "all_reduce")] += (
                elements * run.recipe.dtype.itemsize
            )
    run.calls = dict(Counter(event.name for event in profile.events()))
    run.operators = frozenset(run.calls)
    run.sent = dict(sent)


def count(shape: list[int]) -> int:
    elements = 1 if shape else 0
    for size in shape:
        elements *= size if isinstance(size, int) else 0
    return elements


def sent_by_all(run: ParallelRun) -> dict[str, float]:
    """The bytes of each collective, of the process that hands over most; all call together."""
    names: list = [None] * dist.get_world_size()
    dist.all_gather_object(names, sorted(run.sent))
    every = sorted({name for part in names for name in part})
    return dict(zip(every, largest(run.sent.get(name, 0) for name in every), strict=True))


def weigh(run: ParallelRun, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """The bytes that this process holds for what, from tensors, and the rest from an allocator.

    "activations": the most that a forward and backward pass takes beside parameters, gradients,
    and optimizer state, which are all there already: what is kept for the backward pass, buffers
    for parameters that are gathered, and what operators need for a moment.
    """
    own = list(run.model.parameters())
    item = run.recipe.dtype.itemsize
    states = [v for s in optimizer_state(run) for v in s.values() if isinstance(v, torch.Tensor)]
    inputs, targets = own_windows(run, inputs), own_windows(run, targets)
    run.optimizer.zero_grad()
    forward_backward(run, inputs, targets)
    run.memory = {
        "parameters": sum(nbytes(p) for p in own),
        "gradients": sum(nbytes(p.grad) for p in own if p.grad is not None),
        "optimizer": sum(nbytes(s) for s in states if s.dim()),
        "whole_parameters": item * run.whole_elements,
        "activations": peak_within(run.device, lambda: forward_backward(run, inputs, targets)),
    }


def optimizer_state(run: ParallelRun) -> list[dict]:
    inner = getattr(run.optimizer, "optim", run.optimizer)  # ZeroRedundancyOptimizer holds one
    return list(inner.state.values())


def nbytes(tensor: torch.Tensor) -> int:
    part = local(tensor)
    return part.numel() * part.element_size()


def peak_within(device: torch.device, work) -> int:
    """The most bytes that `work` has allocated at a time, beyond what was there before."""
    if device.type in ("cuda", "xpu"):
        torch.accelerator.reset_peak_memory_stats(device)
        before = torch.accelerator.memory_allocated(device)
        work()
        synchronize(device)
        return torch.accelerator.max_memory_allocated(device) - before
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    live = peak = 0
    found = profile.profiler.kineto_results.events()
    for event in sorted(found, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak

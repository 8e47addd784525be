"""Where the time of a training step goes: a few steps under torch's profiler, summed into parts.

On a CPU an operator counts with the time it ran itself, without the operators that it called; on a
GPU a kernel counts with the time it ran on the device. So the parts add up to the window, and what
no operator or kernel covers is a part, too: Python, bookkeeping, and launches. parts.py
has the parts.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from common.accelerator.compiler import name_fused_kernels
from common.accelerator.device import synchronize
from common.workloads.train.build import Run
from common.workloads.train.parts import (
    COMPILED,
    ELEMENTWISE,
    FUSED,
    GAPS,
    LAUNCH,
    MARK,
    PARTS,
    WAIT,
    WINDOW,
    around,
    part_of,
    part_of_kernel,
)

STEPS = 2  # in the profiled window
TOP = 10  # the most expensive operators that are kept
NAME = 200  # characters of a kernel's name that are kept; templates are longer
ACTIVITIES = {  # what torch's profiler can see of a device; it sees no kernels of Apple's GPUs
    "cpu": [ProfilerActivity.CPU],
    "cuda": [ProfilerActivity.CPU, ProfilerActivity.CUDA],
    "xpu": [ProfilerActivity.CPU, ProfilerActivity.XPU],
}


@dataclass(frozen=True)
class Share:
    """Some seconds of the window, and what they went to."""

    name: str  # of the operator or kernel
    part: str
    seconds: float
    source: object = None  # the host's event that ran it, or launched it; None: unknown


def marked(batches: Iterator) -> Iterator:
    """The same batches; waiting for one shows in a profile."""
    while True:
        with record_function(f"{MARK}{WAIT}"):
            batch = next(batches)
        yield batch


def profile_or_reason(step: Callable[[], None], run: Run, trace: str | None = None):
    """(`profile_steps`, ""), or ({}, why it failed): what was measured must not be lost with it."""
    try:
        return profile_steps(step, run, trace), ""
    except Exception as error:  # the profiler's interface differs between versions of torch
        traceback.print_exc()
        return {}, f"no profile: {type(error).__name__}: {error}".splitlines()[0][:200]


def profile_steps(step: Callable[[], None], run: Run, trace: str | None = None) -> dict:
    """Profile STEPS steps. Times in seconds.

    Returns {"steps", "window_s", "parts": {part: s per step}, "top": [{"name", "part", "s", "calls"
    per step}]}. `trace`: a file for the events themselves, as Chrome and Perfetto read them.
    """
    device = run.device
    if run.recipe.compile and device.type == "cpu":
        name_fused_kernels()
        step()  # compiles once more
    profile = watch(step, device)
    if trace:
        profile.export_chrome_trace(trace)
    return summary(profile.events(), device.type)


def watch(step: Callable[[], None], device: torch.device) -> torch.profiler.profile:
    """Run STEPS steps in a window under torch's profiler."""
    with torch.profiler.profile(
        activities=ACTIVITIES[device.type], record_shapes=True, acc_events=True
    ) as profile:
        step()  # the profiler's own start-up falls on this one
        synchronize(device)
        with record_function(WINDOW):
            for _ in range(STEPS):
                step()
            synchronize(device)
    return profile


def summary(events: Iterable, device_type: str) -> dict:
    """The window in `events` summed up, as `profile_steps` returns it."""
    events = list(events)
    window = next(e for e in events if e.name == WINDOW and e.device_type == DeviceType.CPU)
    shares = list((on_host if device_type == "cpu" else on_device)(events, window))
    parts = dict.fromkeys(PARTS, 0.0)
    seconds, calls = defaultdict(float), defaultdict(int)
    for share in shares:
        parts[share.part] += share.seconds / STEPS
        if share.part not in (WAIT, GAPS):
            key = share.name[:NAME], share.part
            seconds[key] += share.seconds / STEPS
            calls[key] += 1
    dearest = sorted(seconds, key=seconds.get, reverse=True)[:TOP]
    return {
        "steps": STEPS,
        "window_s": window.time_range.elapsed_us() / 1e6,
        "parts": parts,
        "top": [
            {"name": key[0], "part": key[1], "s": seconds[key], "calls": calls[key] / STEPS}
            for key in dearest
        ],
    }


def on_host(events: list, window) -> Iterator[Share]:
    """What the window's thread did, by operators' own time."""
    inside = [e for e in events if e is window or window in around(e)]
    # without their names the time of fused kernels is that of the graph that calls them
    named = any(FUSED.search(e.name) for e in inside)
    for event in inside:
        chain = [event.name, *(e.name for e in around(event))]
        if not named and event.name.startswith(COMPILED):
            part = ELEMENTWISE
        else:
            part = part_of(chain, event.input_shapes)
        fused = FUSED.search(event.name)  # inductor puts the graph's number before it
        name = fused[0] if fused else event.name
        yield Share(name, part, event.self_cpu_time_total / 1e6, event)


def on_device(events: list, window) -> Iterator[Share]:
    """What the device did while the host was in the window, by kernels' time on the device.

    Where kernels overlap, the time counts for the one that began first. Where none runs, the
    device waits for data while the host does, and is otherwise in a gap.
    """
    host = [e for e in events if e.device_type == DeviceType.CPU]
    launches = {e.id: e for e in host if LAUNCH.match(e.name)}
    operators = {e.id: e for e in host if "::" in e.name}
    kernels = [e for e in events if e.device_type != DeviceType.CPU and not e.is_user_annotation]
    waits = [(e.time_range.start, e.time_range.end) for e in host if e.name == f"{MARK}{WAIT}"]
    reached, end = window.time_range.start, window.time_range.end  # microseconds
    for kernel in sorted(kernels, key=lambda e: e.time_range.start):
        begin = min(max(kernel.time_range.start, reached), end)
        yield from _idle(reached, begin, waits)
        reached = max(reached, min(kernel.time_range.end, end))
        if reached > begin:
            launch = launches.get(kernel.id)
            launcher = launch and launch.cpu_parent
            linked = getattr(kernel, "linked_correlation_id", 0)  # from torch 2.12 on; 0: unknown
            if launcher is None and linked:
                launcher = operators.get(linked)
            part = part_of_kernel(kernel.name, launcher)
            yield Share(kernel.name, part, (reached - begin) / 1e6, launcher)
    yield from _idle(reached, end, waits)


def _idle(begin: float, end: float, waits: list[tuple[float, float]]) -> Iterator[Share]:
    """The time from `begin` to `end`, microseconds, in which the device did nothing."""
    waited = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in waits)
    yield Share(WAIT, WAIT, waited / 1e6)
    yield Share(GAPS, GAPS, (end - begin - waited) / 1e6)

"""Where the time of a training step goes: a few steps under torch's profiler, summed into parts.

On a CPU an operator counts with the time it ran itself, without the operators that it called; on a
GPU a kernel counts with the time it ran on the device. So the parts add up to the window, and what
no operator or kernel covers is a part, too: Python, bookkeeping, and launches.

An event belongs to a part by its name, by what it runs inside of, and by its shapes: in this model
only attention has products in batches and tensors with four dimensions, (B, H, T, D) or
(B, H, T, T). Code may also say so itself: all that runs inside of
`torch.profiler.record_function("ladder::loss")` belongs to the part "loss".
"""

import re
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

STEPS = 2  # in the profiled window
TOP = 10  # the most expensive operators that are kept
NAME = 200  # characters of a kernel's name that are kept; templates are longer
MARK = "ladder::"  # of a range that names its part
WINDOW = f"{MARK}window"
PRODUCTS, ATTENTION, ELEMENTWISE = "matrix products", "attention", "normalisation and elementwise"
LOSS, OPTIMIZER, COPIES, NETWORK = "loss", "optimizer", "copies", "network"
WAIT, GAPS = "data wait", "gaps"
PARTS = (PRODUCTS, ATTENTION, ELEMENTWISE, LOSS, OPTIMIZER, COPIES, NETWORK, WAIT, GAPS)
ACTIVITIES = {  # what torch's profiler can see of a device; it sees no kernels of Apple's GPUs
    "cpu": [ProfilerActivity.CPU],
    "cuda": [ProfilerActivity.CPU, ProfilerActivity.CUDA],
    "xpu": [ProfilerActivity.CPU, ProfilerActivity.XPU],
}

IN_LOSS = re.compile(
    r"cross_entropy|nll_loss|log_softmax|NllLoss|LogSoftmax|ladder::\w*loss_and_gradients"
)
IN_ATTENTION = re.compile(r"scaled_dot_product|(flash|efficient|cudnn|flex)_attention|ScaledDot")
IN_NETWORK = re.compile(  # between processes
    r"_?c10d|gloo:|nccl:|xccl:|ncclDevKernel|FSDP::(all_gather|post_backward_reduce)"
)
OF_ATTENTION = re.compile(r"bmm|softmax|masked_fill|tri[ul]")
OF_PRODUCTS = re.compile(
    r"_?(int_|add)?mm_?(_activation)?|matmul|(mkldnn_|mkl_|_)?linear\w*|_scaled_mm"
)
OF_COPIES = re.compile(r"(_foreach_)?copy_|_to_copy|to|clone|contiguous|item|_local_scalar_dense")
FUSED = re.compile(r"(cpp|triton_[a-z]+)_fused_(\w+?)_?\d*$")  # a kernel of torch.compile's
ONLY_MOVED = re.compile(r"((_to_copy|clone|copy_?|view|transpose|permute|t)(_|$))+")
COMPILED = "## Call CompiledFxGraph"
# host functions of CUDA's runtime and driver, of HIP, and of SYCL's and Level Zero's adapters, that
# launch a kernel or a copy under its number
LAUNCH = re.compile(r"(cuda|cu|hip|ur|ze)[A-Z]")
OF_LIBRARIES = {  # kernels of CUDA's and ROCm's libraries and of torch, by their names
    ATTENTION: re.compile(r"flash_(fwd|bwd)|fmha|sdpa|attn|attention", re.IGNORECASE),
    OPTIMIZER: re.compile(r"multi_tensor_apply|FusedAdam", re.IGNORECASE),
    LOSS: re.compile(r"nll_loss|softmax|cross_entropy", re.IGNORECASE),
    PRODUCTS: re.compile(r"gemm|nvjet|xmma|cutlass|Cijk_|splitK", re.IGNORECASE),
    COPIES: re.compile(r"Memcpy|Memset|direct_copy|CatArrayBatched"),
}
BOOKKEEPING = re.compile(  # operators that look at a tensor differently, or make room for one
    r"(_unsafe_)?view|_?reshape(_alias)?|(un)?flatten|(un)?squeeze|expand(_as)?|t|transpose|"
    r"permute|as_strided|select|slice|narrow|split|chunk|unbind|alias|detach|lift_fresh|set_|"
    r"(new_)?empty(_like|_strided)?|resize_|resolve_(conj|neg)|result_type"
)


@dataclass(frozen=True)
class Share:
    """Some seconds of the window, and what they went to."""

    name: str  # of the operator or kernel
    part: str
    seconds: float


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
    with torch.profiler.profile(
        activities=ACTIVITIES[device.type], record_shapes=True, acc_events=True
    ) as profile:
        step()  # the profiler's own start-up falls on this one
        synchronize(device)
        with record_function(WINDOW):
            for _ in range(STEPS):
                step()
            synchronize(device)
    if trace:
        profile.export_chrome_trace(trace)
    return summary(profile.events(), device.type)


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
        yield Share(fused[0] if fused else event.name, part, event.self_cpu_time_total / 1e6)


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
            yield Share(kernel.name, part, (reached - begin) / 1e6)
    yield from _idle(reached, end, waits)


def _idle(begin: float, end: float, waits: list[tuple[float, float]]) -> Iterator[Share]:
    """The time from `begin` to `end`, microseconds, in which the device did nothing."""
    waited = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in waits)
    yield Share(WAIT, WAIT, waited / 1e6)
    yield Share(GAPS, GAPS, (end - begin - waited) / 1e6)


def around(event) -> list:
    """The events that this one ran inside of, innermost first."""
    found = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        found.append(event)
    return found


def part_of_kernel(kernel: str, launcher) -> str:
    """The part of a kernel: by its own name if the compiler gave it one, else by its launcher.

    Where the launcher is unknown or tells nothing, as that of a CUDA graph, which launches all of
    its kernels at once, a library's kernel is known by its name; what is left is elementwise.
    """
    chain = [e.name for e in (launcher, *around(launcher))] if launcher else []
    if FUSED.search(kernel) or IN_NETWORK.match(kernel):
        chain.insert(0, kernel)
    part = part_of(chain, launcher.input_shapes if launcher else []) if chain else GAPS
    if part != GAPS:
        return part
    named = (part for part, pattern in OF_LIBRARIES.items() if pattern.search(kernel))
    return next(named, ELEMENTWISE)


def part_of(chain: list[str], shapes: Iterable = ()) -> str:
    """The part of an event. `chain`: its name, then what it ran inside of, innermost first."""
    for name in chain:
        if name.startswith(MARK) and name.removeprefix(MARK) in PARTS:
            return name.removeprefix(MARK)
        if name.startswith("Optimizer."):  # torch's own range around step() and zero_grad()
            return OPTIMIZER
    if any(IN_NETWORK.match(name) for name in chain):
        return NETWORK
    if fused := FUSED.search(chain[0]):
        for part, pattern in ((ATTENTION, IN_ATTENTION), (LOSS, IN_LOSS)):
            if any(pattern.search(name) for name in chain[1:]):  # an operator that is compiled
                return part
        return _part_of_fused(fused[1], fused[2])
    space, _, operator = chain[0].rpartition("::")
    by_torch = space and "autograd" not in space and chain[0] != WINDOW
    if not by_torch or BOOKKEEPING.fullmatch(operator):
        return GAPS
    if OF_PRODUCTS.fullmatch(operator):  # also the head's, inside of a loss that makes its logits
        return PRODUCTS
    if any(IN_LOSS.search(name) for name in chain):
        return LOSS
    if OF_COPIES.fullmatch(operator):
        return COPIES
    heads = any(len(shape) == 4 for shape in shapes or ())
    if heads or OF_ATTENTION.search(operator) or any(IN_ATTENTION.search(n) for n in chain):
        return ATTENTION
    return ELEMENTWISE


def _part_of_fused(kind: str, operators: str) -> str:
    """The part of a compiled kernel, which is named after the operators that it fuses."""
    if IN_LOSS.search(operators):
        return LOSS
    if IN_ATTENTION.search(operators) or OF_ATTENTION.search(operators):
        return ATTENTION
    if kind == "triton_tem":  # a template: a matrix product with what follows it
        return PRODUCTS
    return COPIES if ONLY_MOVED.fullmatch(operators) else ELEMENTWISE

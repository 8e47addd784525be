"""One process of several that measure a rung together. torchrun starts it, with a job as argument.

The events go out on the first process's stdout, as common/child.py's do. A process ends when stdin
does: the runner holds its other end until torchrun is gone, so none is left behind.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

import torch
import torch.distributed as dist

from common.child import die_with_parent, guarded, prober
from common.compiler import compiled_graphs, forget_graphs
from common.data import Endless, make_loader, read_text, read_tokens, split
from common.device import PeakMemory, give_back, synchronize
from common.distributed import BACKENDS, joined, preflight
from common.equivalence import (
    answers,
    by_format,
    by_rounding,
    coarse_weights,
    judge,
    made_up_ids,
)
from common.measure import DATA_SEED, Disturbed, Measurement, Settings, make_clock, time_steps
from common.profiling import marked, profile_or_reason
from common.recipe import Numerics, Recipe, Shape
from ladders.parallel.layout import (
    ParallelRun,
    forward_backward,
    lay_out,
    local,
    mean_loss,
    own_windows,
    parallel_step,
    refuse,
    small,
    whole_gradients,
)
from ladders.parallel.pipeline_clock import bubble
from ladders.parallel.recipe import ParallelRecipe

TIMEOUT_S = 120.0  # for one process to wait for another; the runner's own limit is per rung


def main() -> None:
    job = json.loads(sys.argv[1])
    threading.Thread(target=die_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like an event
    first = os.environ["RANK"] == "0"

    def report(phase: str) -> None:
        if first:
            print(json.dumps({"phase": phase}), file=events)

    result = guarded(job, report, work)
    if first or result["status"] != "ok":
        # one write: lines of several processes that fail must not mix
        os.write(events.fileno(), (json.dumps(result) + "\n").encode())
    if result["status"] != "ok":
        time.sleep(1.0)  # let the first failure be read first
        sys.stderr.flush()
        os._exit(1)  # not by the interpreter's end, which can wait for the others for ever


def work(job: dict, report) -> dict:
    """Check the job's recipe, where the job says against what, and measure it."""
    recipe, settings = Recipe.from_json(job["recipe"]), Settings.from_json(job["settings"])
    result = {}
    with joined(settings.device, TIMEOUT_S) as device:
        refuse(recipe, settings.shape)
        if "check" in job:
            report("checking equivalence")
            result["equivalence"] = check(recipe, job["check"], device)
            forget_graphs()  # the small model's must not count as this one's
        result["measurement"] = asdict(measure(recipe, settings, device, prober(job), report))
    return result


def check(recipe: ParallelRecipe, against: dict, device: torch.device) -> dict:
    """Loss and gathered gradients against one process in float64, in the first process.

    Raises NotEquivalent there, if they are not what the rung declares.
    """
    recipe, baseline = small(recipe), Recipe.from_json(against["baseline"])
    shape = small_shape(recipe)
    run = lay_out(recipe, shape, device)
    coarse_weights(run)
    windows = recipe.windows * recipe.data
    ids = made_up_ids(shape, windows)
    inputs, targets = (own_windows(run, part) for part in (ids[:, :-1], ids[:, 1:]))
    loss = mean_loss(run, forward_backward(run, inputs, targets))
    own = whole_gradients(run)
    if dist.get_rank() != 0:
        return {}
    reference = answers(replace(baseline, dtype=torch.float64), device, shape, windows)
    own["loss"] = torch.tensor(loss, dtype=torch.float64)
    assert own.keys() == reference.keys()
    claim, allowed = Numerics(against["numerics"]), by_format(recipe)
    if claim is Numerics.ROUNDING:  # as one process in the same format shows it
        alone = answers(baseline, device, shape, windows)
        allowed = allowed.and_at_most(by_rounding(recipe, alone, reference))
    return judge(own, reference, claim, allowed, recipe.format).to_json()


def small_shape(recipe: ParallelRecipe) -> Shape:
    """Small, and divisible by whatever the recipe cuts."""
    heads = 2 * recipe.tensor
    return Shape(
        layers=2 * recipe.stages, heads=heads, emb_dim=16 * heads, context=64, vocab_size=1008
    )


def measure(
    recipe: ParallelRecipe, settings: Settings, device: torch.device, probe, report
) -> Measurement:
    """common.measure's clock around steps that all processes make together.

    A step takes as long as it takes the slowest process. Memory is the largest of all processes'.
    """
    begin = time.perf_counter()
    report("building")
    text = read_text(settings.text)
    tokens = split(read_tokens(text), settings.shape)[0]
    windows = recipe.windows * recipe.data
    loader = make_loader(tokens, replace(recipe, batch_size=windows), Endless(tokens, DATA_SEED))
    first, batches = next(iter(loader)), iter(loader)
    link = preflight(device)
    run = lay_out(recipe, settings.shape, device)
    losses, data_wait = [], [0.0]

    def step() -> None:
        asked = time.perf_counter()
        inputs, targets = next(batches)
        data_wait[0] += time.perf_counter() - asked
        losses.append(parallel_step(run, inputs, targets))

    def wait() -> None:
        synchronize(device)

    report("first step")
    startup_s = time.perf_counter() - begin
    (first_step_s,), _ = time_steps(step, 1, make_clock(device), wait)
    report("warming up")
    give_back(device)
    look_into(run, step)
    weigh(run, *first)
    idle = bubble(run, *first) if recipe.pipeline else None
    for _ in range(settings.warmup - 2):
        step()
    run.graphs, run.graph_breaks = compiled_graphs()
    in_effect = probe(run)

    together()
    report("timing")
    data_wait[0] = 0.0
    weights = [local(parameter).detach().clone() for parameter in run.model.parameters()]
    memory = PeakMemory(device)
    memory.reset()
    cpu_before = time.process_time()
    step_s, window_s = time_steps(step, settings.steps, make_clock(device), wait)
    cpu_s = time.process_time() - cpu_before
    report("timed")
    reserved, allocated = memory.read()
    pairs = zip(weights, run.model.parameters(), strict=True)
    if all(torch.equal(before, local(after)) for before, after in pairs):
        raise Disturbed("the weights did not change in the timed window")
    cpu_s = highest([cpu_s], dist.ReduceOp.SUM)[0]
    reserved, window_s = highest([reserved, window_s])
    trained = [mean_loss(run, loss) for loss in losses]
    profile, profile_failed = {}, ""
    if settings.profile:
        report("profiling")
        batches = marked(batches)
        trace = settings.trace if dist.get_rank() == 0 else None
        profile, profile_failed = profile_or_reason(step, run, trace)
    return Measurement(
        step_s=highest(step_s),
        window_s=window_s,
        first_step_s=first_step_s,
        data_wait_s=data_wait[0],
        losses=trained,
        tokens_per_step=windows * settings.shape.context,
        peak_reserved_gib=reserved,
        cpu_share=cpu_s / window_s / (os.cpu_count() or 1),
        peak_allocated_gib=None if allocated is None else highest([allocated])[0],
        text_sha256=text.sha256,
        text_source=text.source,
        in_effect=in_effect,
        startup_s=startup_s,
        profile=profile,
        profile_failed=profile_failed,
        parallel={
            "processes": recipe.processes,
            "mesh": {axis: getattr(recipe, axis) for axis in ("stages", "data", "tensor")},
            "windows": windows,
            "micro_batches": recipe.micro_batches,
            "threads": torch.get_num_threads(),
            "link": link,
            "memory_bytes": dict(zip(run.memory, highest(run.memory.values()), strict=True)),
            "sent_bytes": sent_by_all(run),
            "bubble": idle,
        },
    )


def together() -> None:
    if dist.get_world_size() > 1:
        dist.barrier()


def highest(values, operation=dist.ReduceOp.MAX) -> list[float]:
    """Each value's maximum (or another reduction) over all processes."""
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
    return dict(zip(every, highest(run.sent.get(name, 0) for name in every), strict=True))


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


if __name__ == "__main__":
    main()

"""How long a pipeline's stages stand idle."""

import time

import torch
import torch.distributed as dist

from common.accelerator.device import synchronize
from common.workloads.parallel.layout import ParallelRun, forward_backward, own_windows


def predicted_bubble(stages: int, micro_batches: int) -> float:
    """The idle share of GPipe and 1F1B with equal stages: (p - 1) / (m + p - 1).

    Source: Huang et al. 2019, arXiv:1811.06965, section 2.
    """
    return (stages - 1) / (micro_batches + stages - 1)


def bubble(run: ParallelRun, inputs: torch.Tensor, targets: torch.Tensor) -> dict:
    """One step's forward and backward pass with a clock around every piece of a stage's own work.

    `idle`: the share of the stages' time in which they did not compute, of all stages together;
    `busy_s`: the seconds that each stage computed, first to last. All processes call this together.
    """
    recipe, busy = run.recipe, 0.0

    def clocked(work):
        def timed(*arguments, **options):
            nonlocal busy
            synchronize(run.device)
            begin = time.perf_counter()
            result = work(*arguments, **options)
            synchronize(run.device)
            busy += time.perf_counter() - begin
            return result

        return timed

    stage, loss = run.stage, run.loss
    inputs, targets = own_windows(run, inputs), own_windows(run, targets)
    run.optimizer.zero_grad()
    stage.forward_one_chunk = clocked(stage.forward_one_chunk)
    stage.backward_one_chunk = clocked(stage.backward_one_chunk)
    run.loss = clocked(loss)
    try:
        if dist.get_world_size() > 1:
            dist.barrier()
        begin = time.perf_counter()
        forward_backward(run, inputs, targets)
        synchronize(run.device)
        passed = time.perf_counter() - begin
    finally:
        del stage.forward_one_chunk, stage.backward_one_chunk  # back to the class's own
        run.loss = loss
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, (run.place("stages"), busy, passed))
    span = max(part[2] for part in found)
    by_stage = [max(b for place, b, _ in found if place == s) for s in range(recipe.stages)]
    return {
        "idle": 1 - sum(by_stage) / (recipe.stages * span),
        "predicted": predicted_bubble(recipe.stages, recipe.micro_batches),
        "busy_s": by_stage,
    }

"""Training steps of several processes together, started by torchrun."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import give_back
from common.engine.device import threads_allowed
from common.engine.job import Against
from common.engine.session import Timed
from common.engine.workload import Check, Launch
from common.workloads.parallel.check import check
from common.workloads.parallel.inspect import largest, look_into, sent_by_all, total, weigh
from common.workloads.parallel.layout import (
    ParallelRun,
    lay_out,
    local,
    mean_loss,
    parallel_step,
    refuse,
)
from common.workloads.parallel.metrics import METRICS
from common.workloads.parallel.pipeline_clock import bubble
from common.workloads.parallel.processes import joined, preflight
from common.workloads.parallel.recipe import AXES, ParallelRecipe
from common.workloads.train.batches import make_loader
from common.workloads.train.session import TrainSession
from common.workloads.train.settings import Settings
from common.workloads.train.workload import Training

TIMEOUT_S = 120.0  # for one process to wait for another; the runner's own limit is per rung


class ParallelSession(TrainSession):
    """One process of several. A step takes as long as it takes the slowest of them."""

    run: ParallelRun

    def make_run(self) -> ParallelRun:
        self.link = preflight(self.device)
        return lay_out(self.recipe, self.settings.shape, self.device)

    def make_batches(self):
        """The windows of all replicas, of which each takes its own."""
        windows = self.recipe.windows * self.recipe.data
        whole = replace(self.recipe, batch_size=windows)
        loader = make_loader(self.windows, whole, self.order)
        self.first = next(iter(loader))
        return iter(loader)

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return parallel_step(self.run, inputs, targets)

    def look(self) -> None:
        """One profiled step; what is sent in it, held, and, of a pipeline, idle."""
        give_back(self.device)
        look_into(self.run, self.step)
        weigh(self.run, *self.first)
        self.idle = bubble(self.run, *self.first) if self.recipe.pipeline else None

    def begin(self) -> None:
        if dist.get_world_size() > 1:
            dist.barrier()
        super().begin()

    def room(self) -> tuple[float, float]:
        """On a CPU all processes hold the same memory's parts."""
        held, free = super().room()
        return held * (self.recipe.processes if self.device.type == "cpu" else 1), free

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        return local(tensor)

    def all_losses(self) -> list[float]:
        return [mean_loss(self.run, loss) for loss in self.losses]

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """The largest of all processes' figures: of each step's time, and of memory."""
        reserved, allocated = self.peaks
        self.peaks = (
            largest([reserved])[0],
            None if allocated is None else largest([allocated])[0],
        )
        (window_s,), cpu_s = largest([timed.window_s]), total(timed.cpu_s)
        if dist.get_rank() != 0:
            self.settings = replace(self.settings, trace=None)
        run, memory = self.run, self.run.memory
        return super().values(timed, tell) | {
            "step_s": largest(timed.step_s),
            "window_s": window_s,
            "cpu_share": cpu_s / window_s / (os.cpu_count() or 1),
            "parallel": {
                "processes": self.recipe.processes,
                "mesh": {axis: getattr(self.recipe, axis) for axis in AXES},
                "windows": self.recipe.windows * self.recipe.data,
                "micro_batches": self.recipe.micro_batches,
                "threads": torch.get_num_threads(),
                "link": self.link,
                "memory_bytes": dict(zip(memory, largest(memory.values()), strict=True)),
                "sent_bytes": sent_by_all(run),
                "bubble": self.idle,
            },
        }


@dataclass(frozen=True, kw_only=True)
class Parallel(Training):
    """Processes that train together, each with a part of the batch, of the model, or of both."""

    recipe: type[ParallelRecipe] = ParallelRecipe
    processes_on_cpu: int = 2

    def launch(self, recipe: ParallelRecipe) -> Launch:
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
        child = (f"--nproc-per-node={recipe.processes}", "-m", "common.engine.child")
        threads = threads_allowed(recipe.devices)  # the same at every rung
        environment = super().launch(recipe).environment | {"OMP_NUM_THREADS": str(threads)}
        return Launch(
            command=(*torchrun, *child),
            environment=environment,
            by_argument=True,
            processes=recipe.processes,
        )

    @contextmanager
    def place(self, recipe: ParallelRecipe, settings: Settings) -> Iterator[torch.device]:
        with joined(settings.device, TIMEOUT_S) as device:
            refuse(recipe, settings.shape)
            yield device

    def check(
        self, recipe: ParallelRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check | None:
        found = check(recipe, against, device)
        forget_graphs()  # the small model's must not count as this one's
        return found

    def build(
        self, recipe: ParallelRecipe, settings: Settings, device: torch.device
    ) -> ParallelSession:
        return ParallelSession(recipe, settings, device)


PARALLEL = Parallel(address="common.workloads.parallel.workload:PARALLEL", metrics=METRICS)

"""Training steps of a user's model, as the clock meets them: batch, forward, backward, update."""

import gc
import time
from collections.abc import Callable

import torch

from common.accelerator.compiler import compiled_graphs, from_cache
from common.accelerator.device import PeakMemory, give_back, make_clock, room
from common.engine.clock import Clock
from common.engine.contract import Disturbed
from common.engine.session import Session, Timed
from common.workloads.own.breaks import Breaks
from common.workloads.own.build import build, counted_blocks, fetch, train_step
from common.workloads.own.recipe import OwnRecipe
from common.workloads.own.settings import Settings
from common.workloads.own.user_file import UserFile, samples
from common.workloads.train.held import TensorMemory
from common.workloads.train.tensor_memory import gradients, states

SAMPLE = 64  # elements of each parameter, by which an update is noticed
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear")  # of aten


class OwnSession(Session):
    """One process that trains the user's model as a recipe says."""

    def __init__(self, user: UserFile, recipe: OwnRecipe, settings: Settings, device) -> None:
        super().__init__(settings)
        self.user, self.recipe, self.device = user, recipe, device
        self.breaks = Breaks() if recipe.compile else None
        self.run = build(user, recipe, device)
        self.run.optimizer.register_step_post_hook(self.count_update)
        self.updates, self.steps, self.data_wait_s = 0, 0, 0.0
        self.from_cache = False  # whether the first step found a graph compiled
        self.losses: list[torch.Tensor] = []  # on the device
        self.memory = PeakMemory(device)

    def count_update(self, *of_hook) -> None:
        self.updates += 1

    @property
    def probed(self):
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    def step(self) -> None:
        asked = time.perf_counter()
        batch = fetch(self.run)
        self.data_wait_s += time.perf_counter() - asked
        self.losses.append(train_step(self.run, batch))
        if not self.steps:  # later ones may compile a graph again that this one left in the cache
            self.from_cache = from_cache()
        self.steps += 1

    def look(self) -> None:
        """One profiled step: which operators ran, and of an eager one what tensors it held."""
        give_back(self.device)  # what the check before took is not this one's peak
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            self.step() if self.recipe.compile else self.count()
        self.run.operators = frozenset(event.name for event in profile.events())

    def count(self) -> None:
        """A step, its tensors followed."""
        gc.collect()  # what only the collector can end would end at a random time
        memory, run = TensorMemory(), self.run
        for tensor in (*run.model.parameters(), *run.model.buffers(), *held(run.optimizer)):
            memory.meet(tensor)
        with counted_blocks(run) as passes, memory:
            self.step()
        run.blocks, run.peak_bytes = passes(), memory.peaks[self.device.type]
        run.products = frozenset(dtype for name, dtype in memory.calls if is_product(name))

    def ready(self) -> None:
        self.run.graphs, _ = compiled_graphs()
        self.run.breaks = list(self.breaks.found) if self.breaks else []

    def begin(self) -> None:
        self.data_wait_s = 0.0
        self.before = self.sample()
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def sample(self) -> list[torch.Tensor]:
        """Some elements of every parameter that is trained."""
        trained = (p for p in self.run.model.parameters() if p.requires_grad)
        return [parameter.detach().reshape(-1)[:SAMPLE].clone() for parameter in trained]

    def audit(self) -> None:
        if compiled_graphs()[0] != self.run.graphs:
            raise Disturbed("the model was compiled again within the timed steps")
        if self.updates != self.steps:
            raise Disturbed(f"{self.steps} steps made {self.updates} updates of the parameters")
        if all(map(torch.equal, self.before, self.sample())):
            raise Disturbed("the weights did not change in the timed steps")

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, memory in GiB or bytes, losses of every step, warm-up first."""
        reserved, allocated = self.peaks
        return {
            "data_wait_s": self.data_wait_s,  # of the host, in batch(), in the timed steps
            "losses": [loss.item() for loss in self.losses],
            "units_per_step": self.user.units(self.run.batch),
            "units": self.user.counts,
            "samples_per_step": samples(self.run.batch),
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,  # None: not counted on this device
            "peak_tensor_bytes": self.run.peak_bytes,
            "graph_breaks": self.run.breaks,
            "from_cache": self.from_cache,  # then the first step tells nothing of compiling
        }


def held(optimizer: torch.optim.Optimizer):
    """The optimizer's own tensors, and the gradients of what it updates."""
    groups = (group["params"] for group in optimizer.param_groups)
    return [*states(optimizer), *gradients(p for group in groups for p in group)]


def is_product(operator: str) -> bool:
    """Of "aten.addmm.default"."""
    return operator.startswith(tuple(f"aten.{name}." for name in PRODUCTS))

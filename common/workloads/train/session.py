"""Training steps, as the clock meets them: a batch fetched, copied, forward, backward, update."""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from common.accelerator.compiler import compiled_graphs
from common.accelerator.device import PeakMemory, give_back, make_clock, room
from common.engine.clock import Clock
from common.engine.contract import Disturbed
from common.engine.device import GIB
from common.engine.session import Session, Timed
from common.gpt.text import Endless, read_text, read_tokens, split
from common.workloads.train.batches import make_loader, to_device
from common.workloads.train.build import Run, build, evaluate, train_step
from common.workloads.train.layers import layers_or_reason
from common.workloads.train.profiling import marked, profile_or_reason
from common.workloads.train.recipe import Recipe
from common.workloads.train.settings import Settings

DATA_SEED = 7  # the same windows in the same order at every rung
VALIDATION_WINDOWS = 8  # of the held-out text: outside the clock, so it costs no tok/s
SAMPLE = 64  # elements of each parameter, by which an update is noticed


class TrainSession(Session):
    """One process that trains. Subclasses train with others."""

    def __init__(self, recipe: Recipe, settings: Settings, device: torch.device) -> None:
        super().__init__(settings)
        self.recipe, self.device = recipe, device
        self.text = read_text(settings.text)
        self.windows, self.held_out = split(self.read_tokens(), settings.shape)
        self.headroom = torch.empty(
            int(settings.headroom_gib * GIB), dtype=torch.uint8, device=device
        )
        self.run = self.make_run()
        self.run.optimizer.register_step_post_hook(self.count_update)
        self.updates = 0
        self.order = Endless(self.windows, DATA_SEED)
        self.batches = self.make_batches()
        self.losses: list[torch.Tensor] = []  # on the device
        self.seen: list[torch.Tensor] = []  # every step's inputs, on the host: ids are small
        self.data_wait_s = 0.0
        self.memory = PeakMemory(device)

    def read_tokens(self) -> np.ndarray:
        """The text's token ids, (N,)."""
        return read_tokens(self.text)

    def make_run(self) -> Run:
        return build(self.recipe, self.settings.shape, self.device)

    def make_batches(self):
        return iter(make_loader(self.windows, self.recipe, self.order))

    def count_update(self, optimizer: torch.optim.Optimizer, *of_hook) -> None:
        """A fused kernel is called in a step that a scaler skips, too, and told so."""
        skips = getattr(optimizer, "found_inf", None)
        self.updates += skips is None or not skips.item()

    @property
    def probed(self) -> Run:
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    def step(self) -> None:
        asked = time.perf_counter()
        batch = next(self.batches)
        self.data_wait_s += time.perf_counter() - asked
        self.seen.append(batch[0])
        self.losses.append(self.train(*batch))

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One update on a step's windows, (B, T) each on the host. Returns the loss, ()."""
        self.run.batch = inputs, targets
        return train_step(self.run, *to_device(self.recipe, self.device, inputs, targets))

    def look(self) -> None:
        """One profiled step: which operators ran."""
        give_back(self.device)  # what the check before and autotuning took is not this one's peak
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step()
        self.run.operators = frozenset(event.name for event in profile.events())

    def ready(self) -> None:
        self.run.graphs, self.run.graph_breaks = compiled_graphs()

    def begin(self) -> None:
        self.data_wait_s = 0.0
        self.before = self.sample()
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()
        del self.headroom

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def sample(self) -> list[torch.Tensor]:
        """Some elements of every parameter that is trained."""
        trained = (p for p in self.run.model.parameters() if p.requires_grad)
        return [self.local(p.detach()).reshape(-1)[:SAMPLE].clone() for p in trained]

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process's part of a tensor: the whole."""
        return tensor

    def audit(self) -> None:
        if compiled_graphs()[0] != self.run.graphs:
            raise Disturbed("the model was compiled again within the timed steps")
        steps = len(self.seen)
        if self.updates + self.run.skipped != steps:
            raise Disturbed(f"{steps} steps made {self.updates} updates of the parameters")
        if all(map(torch.equal, self.before, self.sample())):
            raise Disturbed("the weights did not change in the timed steps")
        self.audit_windows()

    def audit_windows(self) -> None:
        """Each step was fed the windows whose turn it was, which may look like those before."""
        batch = len(self.seen[0])
        if len(self.order.drawn) < batch * len(self.seen):
            drawn = len(self.order.drawn) // batch
            raise Disturbed(f"{len(self.seen)} steps were fed the windows of {drawn}")
        wrong = 0
        for step, inputs in enumerate(self.seen):
            due = self.order.drawn[batch * step : batch * (step + 1)]
            wrong += not np.array_equal(inputs.cpu().numpy(), self.windows.inputs(due))
        if wrong:
            raise Disturbed(f"{wrong} steps were not fed the windows whose turn it was")

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, memory in GiB, losses in nats of every step, warm-up first."""
        reserved, allocated = self.peaks
        return {
            "data_wait_s": self.data_wait_s,  # of the host, in the timed steps
            "losses": self.all_losses(),
            "tokens_per_step": self.seen[0].numel(),
            "passes": len(self.seen) * len(self.seen[0]) / len(self.windows),  # over the text
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,  # None: not counted on this device
            "text_sha256": self.text.sha256,
            "text_source": self.text.source,
            **self.validated(tell),
            **self.profiled(tell),
        }

    def all_losses(self) -> list[float]:
        return [loss.item() for loss in self.losses]

    def validated(self, tell: Callable[[str], None]) -> dict:
        """The loss on held-out text, if it was asked for."""
        if not self.settings.validate:
            return {"validation_loss": None}
        tell("validating")
        one_by_one = make_loader(
            self.held_out, replace(self.recipe, batch_size=1, pin_memory=False)
        )
        return {
            "validation_loss": evaluate(self.run, itertools.islice(one_by_one, VALIDATION_WINDOWS))
        }

    def profiled(self, tell: Callable[[str], None]) -> dict:
        """Where the time of a step goes, if that was asked for; `lacking`: why it is not known."""
        if not self.settings.profile:
            return {"profile": {}}
        tell("profiling")
        self.batches = marked(self.batches)
        profile, why = profile_or_reason(self.step, self.run, self.settings.trace)
        if profile:
            profile["layers"] = layers_or_reason(self.step, self.run)
        return {"profile": profile, "lacking": why}

"""Finetuning, as the clock meets it: half of the updates on one text, half on the other.

Then each text's parts are put into the model as the recipe serves it: held-out losses, what is
forgotten, and the time that a switch takes are those of the served model.
"""

import copy
import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np
import torch
from torch.nn import functional as F

from common.accelerator.device import PeakMemory, give_back, make_clock, room, synchronize
from common.engine.clock import Clock
from common.engine.contract import Disturbed, NotEquivalent
from common.engine.errors import UserError
from common.engine.session import Session, Timed
from common.gpt.text import Endless, Windows, read_text, read_tokens, split
from common.workloads.finetune.build import Tuned, begin_again, make_run, seed_of
from common.workloads.finetune.parts import NOTHING, State, snapshot, trained
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import Beside
from common.workloads.finetune.settings import Settings
from common.workloads.finetune.texts import HELD_OUT, base_text, base_weights, task_texts
from common.workloads.train.batches import make_loader, to_device
from common.workloads.train.build import train_step
from common.workloads.train.tensor_memory import count_update, states

SWITCHES = 6  # timed
LEAST_S = 0.2  # of answering, timed


class FinetuneSession(Session):
    """One process that adapts the base to two texts, one after the other."""

    settings: Settings

    def __init__(self, recipe: FinetuneRecipe, settings: Settings, device: torch.device) -> None:
        super().__init__(settings)
        self.recipe, self.device = recipe, device
        self.texts = task_texts(settings)
        own = read_text(str(base_text(settings.text)))
        _, self.base_held_out = split(read_tokens(own), settings.shape)
        weights = base_weights(settings)
        self.told, self.base = weights.told, weights.state
        self.states: list[State] = []  # of the texts that are done
        ids, seed = self.beginning(0), seed_of(settings.seed, 0)
        self.run = make_run(recipe, settings.shape, self.base, device, ids, seed)
        self.feed(0)
        self.losses: list[torch.Tensor] = []
        self.data_wait_s = 0.0
        self.memory = PeakMemory(device)

    def beginning(self, task: int) -> torch.Tensor:
        """The text's first tokens, (T,)."""
        return self.texts[task].windows[0][0]

    def feed(self, task: int) -> None:
        """Take batches from that text from now on."""
        self.windows = self.texts[task].windows
        self.order = Endless(self.windows, seed_of(self.settings.seed, task))
        self.batches = iter(make_loader(self.windows, self.recipe, self.order))
        self.seen: list[torch.Tensor] = []

    @property
    def probed(self) -> Tuned:
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    def step(self) -> None:
        if len(self.seen) == self.settings.updates and not self.states:
            self.change_text()
        asked = time.perf_counter()
        batch = next(self.batches)
        self.data_wait_s += time.perf_counter() - asked
        self.seen.append(batch[0])
        self.losses.append(self.train(*to_device(self.recipe, self.device, *batch)))

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One update; of a model of which nothing is trained, its loss."""
        if self.recipe.trains != NOTHING:
            return train_step(self.run, inputs, targets)
        with torch.no_grad():
            return self.run.objective(inputs, targets)

    def change_text(self) -> None:
        """The first text is done: begin anew with the second."""
        self.finish_text()
        self.run = begin_again(
            self.run, self.base, self.beginning(1), seed_of(self.settings.seed, 1)
        )
        self.feed(1)

    def finish_text(self) -> None:
        """Keep what was trained on the text, if that, and nothing else, was trained."""
        self.audit_windows()
        self.run.refuse_unmoved()
        self.run.refuse_other_base()
        self.states.append(snapshot(self.run.model))

    def look(self) -> None:
        """The second update is counted. Both have moved by now all that is to move."""
        give_back(self.device)
        self.run.counted = count_update(self.run, self.step)

    def begin(self) -> None:
        self.data_wait_s = 0.0
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def audit(self) -> None:
        steps = len(self.losses)
        if steps != 2 * self.settings.updates or len(self.states) != 1:
            raise Disturbed(f"{steps} updates of {2 * self.settings.updates}")
        self.finish_text()

    def audit_windows(self) -> None:
        """Each update was on the windows whose turn it was."""
        batch = self.recipe.batch_size
        for step, inputs in enumerate(self.seen):
            due = self.order.drawn[batch * step : batch * (step + 1)]
            if not np.array_equal(inputs.cpu().numpy(), self.windows.inputs(due)):
                raise Disturbed(f"update {step} was not on the windows whose turn it was")

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, memory in bytes or GiB, losses in nats."""
        reserved, allocated = self.peaks
        counted, own = self.run.counted, trained(self.run.model)
        return {
            "data_wait_s": self.data_wait_s,
            "losses": [loss.item() for loss in self.losses],
            "tokens_per_step": self.seen[0].numel(),
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,
            "text_sha256": [text.sha256 for text in self.texts],
            "text_source": " and ".join(text.source for text in self.texts),
            "weights": self.told,
            "trainable_parameters": sum(parameter.numel() for parameter in own.values()),
            "gradient_bytes": counted.gradients,
            "moment_bytes": moment_bytes(self.run.optimizer),
            "peak_tensor_bytes": counted.peak,
            "seed": self.settings.seed,
            **self.served(tell),
        }

    # -- as it is served --

    def served(self, tell: Callable[[str], None]) -> dict:
        """Losses of the served model, what a switch takes, and what must be stored for it.

        While rates are tried: only the loss by which one is chosen.
        """
        tell("held-out losses")
        self.run.model.eval()
        found: dict[str, list[float]] = {"tuning": [], "test": [], "base": []}
        serving = self.make_serving()
        for number, (text, task) in enumerate(zip(self.texts, self.states, strict=True)):
            if number and not serving.switches:
                self.refuse_switch(serving, task)
                serving = self.make_serving()
            serving.put(task)
            found["tuning"].append(self.loss(serving, text.held_out, text.tuning))
            if self.settings.seed:
                found["test"].append(self.loss(serving, text.held_out, text.test))
                many = range(min(HELD_OUT, len(self.base_held_out)))
                found["base"].append(self.loss(serving, self.base_held_out, many))
        told = {"tuning_loss": mean(found["tuning"])}
        if not self.settings.seed:
            return told
        return told | {
            "held_out_loss": mean(found["test"]),
            "held_out_losses": found["test"],
            "base_text_loss": mean(found["base"]),
            "task_bytes": serving.stored(self.states[0]),
            "served_tok_per_s": self.answering(serving, tell),
            "switch_s": self.switching(serving, tell),
        }

    def make_serving(self) -> Beside:
        return self.recipe.serving(copy.deepcopy(self.run.model))

    @staticmethod
    def refuse_switch(serving: Beside, task: State) -> None:
        """Raises NotEquivalent if a model that cannot change its task seems to."""
        try:
            serving.put(task)
        except UserError:
            return
        raise NotEquivalent("another task was put into a model that cannot change its task")

    @torch.no_grad()
    def loss(self, serving: Beside, windows: Windows, numbers) -> float:
        """The mean over those windows."""
        found = []
        for number in numbers:
            inputs, targets = (part.to(self.device) for part in windows[number])
            logits = serving.model(inputs[None])[0, :, : self.settings.shape.vocab_size]
            found.append(F.cross_entropy(logits.float(), targets).item())
        return mean(found)

    @torch.no_grad()
    def answering(self, serving: Beside, tell: Callable[[str], None]) -> float:
        """Tokens per second of the forward pass alone, at a batch of the training's size."""
        tell("answering")
        inputs, seconds = self.seen[0].to(self.device), []
        while sum(seconds[1:]) < LEAST_S:
            synchronize(self.device)
            begun = time.perf_counter()
            serving.model.hidden(inputs)  # without the head, which no method touches
            synchronize(self.device)
            seconds.append(time.perf_counter() - begun)
        return inputs.numel() / median(seconds[1:])

    @torch.no_grad()
    def switching(self, serving: Beside, tell: Callable[[str], None]) -> float | None:
        """Seconds until the model answers for the other text; None: it cannot.

        Raises NotEquivalent if the first text's answers are not what they were, bit for bit.
        """
        if not serving.switches or self.recipe.trains == NOTHING:
            return None
        tell("switching")
        inputs, seconds = self.seen[0][:1].to(self.device), []
        serving.put(self.states[0])
        before = serving.model(inputs)
        for place in range(SWITCHES + 1):
            synchronize(self.device)
            begun = time.perf_counter()
            serving.put(self.states[(place + 1) % 2])
            synchronize(self.device)
            seconds.append(time.perf_counter() - begun)
        serving.put(self.states[0])
        if not torch.equal(serving.model(inputs), before):
            raise NotEquivalent("after a switch and back the model answers otherwise than before")
        return median(seconds[1:])


def moment_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer keeps of each element, without its counts of steps."""
    return sum(tensor.nbytes for tensor in states(optimizer) if tensor.dim())

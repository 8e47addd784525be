"""Training from the first update to the last, evaluated in between, outside the clock."""

import time
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch

from common.accelerator.device import synchronize
from common.engine.contract import Disturbed
from common.engine.session import Timed
from common.gpt.text import Endless, Text
from common.workloads.convergence.curve import Point, told
from common.workloads.convergence.recipe import ConvergenceRecipe
from common.workloads.convergence.settings import Settings
from common.workloads.train.build import Run, build, evaluate
from common.workloads.train.session import DATA_SEED, TrainSession
from common.workloads.train.tensor_memory import count_update

EVALUATIONS = 24  # of a run, beside the one at its start
HELD_OUT = 32  # windows of each, spread over the held-out text
AT_A_TIME = 8  # of them


def tokens_of(text: Text) -> np.ndarray:
    """The text's bytes, (N,) uint8: tokens of 256 kinds.

    GPT-2's tokens are a quarter as many, of 50,257 kinds: a text that is read in seconds shows most
    of them a few times only, and teaches little but their frequencies.
    """
    return np.frombuffer(text.content.encode(), np.uint8)


class ConvergenceSession(TrainSession):
    """One process that trains as long as settings say: once by each of the learning rates."""

    def __init__(self, recipe: ConvergenceRecipe, settings: Settings, device: torch.device) -> None:
        self.each = recipe.learning_rates or (recipe.learning_rate,)
        self.due = settings.tokens // (recipe.batch_size * settings.shape.context)  # updates
        self.marks = {round(self.due * n / EVALUATIONS) for n in range(EVALUATIONS + 1)}
        super().__init__(recipe, settings, device)
        self.start = {name: t.clone() for name, t in self.run.inner.state_dict().items()}
        self.legs: list[list[tuple[int, float]]] = []  # by learning rate: updates and loss
        self.applied: list[float] = []  # the learning rate of every update
        self.paused: dict[int, float] = {}  # seconds of evaluation within the step of that number
        several = torch.linspace(0, len(self.held_out) - 1, HELD_OUT).round().int().unique()
        pairs = [self.held_out[number] for number in several.tolist()]
        self.evaluated = [
            tuple(map(torch.stack, zip(*pairs[n : n + AT_A_TIME], strict=True)))
            for n in range(0, len(pairs), AT_A_TIME)
        ]

    def read_tokens(self) -> np.ndarray:
        return tokens_of(self.text)

    def make_run(self) -> Run:
        shape, seed = self.settings.shape, self.settings.seed
        return build(self.recipe, shape, self.device, updates=self.due, seed=seed)

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = super().train(inputs, targets)
        self.applied.append(self.run.optimizer.param_groups[0]["lr"])
        return loss

    def look(self) -> None:
        """The second step's operators are counted, too."""
        self.run.counted = count_update(self.run, super().look)

    def begin(self) -> None:
        self.restart()
        super().begin()

    def restart(self) -> None:
        """As if nothing had been trained, the warm-up neither, by the next of the learning rates.

        The same windows in the same order, at every rung and learning rate.
        """
        run, rate = self.run, self.each[len(self.legs)]
        run.inner.load_state_dict(self.start)
        run.optimizer.state.clear()
        run.rates.peaks, run.rates.done = [rate] * len(run.optimizer.param_groups), 0
        self.order = Endless(self.windows, DATA_SEED + self.settings.seed)
        self.batches = self.make_batches()
        self.losses, self.seen, self.applied, self.curve = [], [], [], []
        self.updates = run.skipped = 0

    def more(self, done: int) -> bool:
        own = done - len(self.legs) * self.due
        if own == self.due:
            self.evaluate(done, own)
            self.legs.append(self.curve)
            if len(self.legs) == len(self.each):
                return False
            self.restart()
            own = 0
        if own in self.marks:
            self.evaluate(done, own)
        return True

    def evaluate(self, done: int, own: int) -> None:
        """The held-out loss after so many updates; `done`: of all learning rates."""
        synchronize(self.device)
        begin = time.perf_counter()
        self.curve.append((own, evaluate(self.run, self.evaluated)))
        self.paused[done] = self.paused.get(done, 0.0) + time.perf_counter() - begin

    def audit(self) -> None:
        super().audit()
        schedule, (peak, *_) = self.run.rates.schedule, self.run.rates.peaks
        if self.applied != [peak * schedule.factor(done) for done in range(self.due)]:
            raise Disturbed("an update had another learning rate than its schedule's")
        windows = self.order.drawn[: self.due * self.recipe.batch_size]
        if len(set(windows)) < len(windows):
            raise Disturbed("a window was trained on twice")

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """As of training, and the curve: tokens, seconds, and held-out loss at every evaluation.

        Of several learning rates, `tuned` has what came of each.
        """
        step_s = [s - self.paused.get(place, 0.0) for place, s in enumerate(timed.step_s)]
        window_s = timed.window_s - sum(self.paused.values())
        legs = [
            told(self.points(leg, step_s[place * self.due :]), self.settings.target)
            for place, leg in enumerate(self.legs)
        ]
        found = super().values(timed, tell) | {"step_s": step_s, "window_s": window_s}
        if self.recipe.learning_rates:
            return found | {"tuned": dict(zip(map(str, self.each), legs, strict=True))}
        return found | legs[0]

    def points(self, leg: list[tuple[int, float]], step_s: list[float]) -> list[Point]:
        tokens = self.recipe.batch_size * self.settings.shape.context
        seconds = [0.0, *accumulate(step_s[: self.due])]
        return [Point(updates * tokens, seconds[updates], loss) for updates, loss in leg]

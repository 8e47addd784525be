"""The memory of a training update: the workload of the ladder `memory`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from common.accelerator.compiler import forget_graphs
from common.engine.job import Against
from common.engine.metric import BRIEF, CSV, EXACT, LOWER, PAGE, Metric
from common.engine.session import Timed
from common.engine.workload import Check, Planned
from common.workloads.train import metrics
from common.workloads.train.held import ACTIVATION, GRADIENT, OPTIMIZER, PARAMETER, TEMPORARY
from common.workloads.train.options import norm
from common.workloads.train.recipe import Recipe
from common.workloads.train.session import TrainSession
from common.workloads.train.settings import Settings
from common.workloads.train.tensor_memory import count_update
from common.workloads.train.workload import Training

MIB = 2**20
ROUNDS_AT_TINY = 1  # its rates say nothing, and a count is the same in every round
STEPS_ON_CPU = 3  # timed, by default: the headline is counted, and 8 windows take long there
WINDOWS = 8  # in an update, at every rung, whatever the preset trains on at a time


class MemorySession(TrainSession):
    """A training process that also counts what one of its updates holds."""

    def look(self) -> None:
        """The second step is counted, too: in the warm-up, which no figure of time has part in."""
        self.run.counted = count_update(self.run, super().look)

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        return super().values(timed, tell) | {
            "tensors": self.run.counted.to_json(),
            "skipped": self.run.skipped,
        }


@dataclass(frozen=True, kw_only=True)
class Memory(Training):
    """Training whose headline is what an update holds at most."""

    measures_ceilings: bool = False

    def options(self, parser: ArgumentParser) -> None:
        super().options(parser)
        clip = "clip the gradients' norm to this; default: not"
        parser.add_argument("--clip-norm", type=norm, metavar="X", default=0.0, help=clip)

    def plan(self, options: Namespace) -> Planned:
        """As many windows at every preset; the held-out loss is always asked for."""
        windows = options.batch_size or WINDOWS
        planned = super().plan(Namespace(**vars(options) | {"batch_size": windows}))
        steps, on_cpu = planned.settings.steps, planned.device.type == "cpu"
        if on_cpu and options.steps is None:
            steps = min(steps, STEPS_ON_CPU)
        return replace(
            planned,
            rounds=ROUNDS_AT_TINY if planned.preset == "tiny" else planned.rounds,
            recipe=replace(planned.recipe, clip_norm=options.clip_norm),
            settings=replace(planned.settings, validate=True, steps=steps),
        )

    def check(
        self, recipe: Recipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.train.equivalence import check
        from common.workloads.train.update_check import answers_of_update

        below, baseline, claim = against.below, against.baseline, against.numerics
        found = check(recipe, below, baseline, claim, device, answers_of_update)
        forget_graphs()
        return found

    def build(self, recipe: Recipe, settings: Settings, device: torch.device) -> MemorySession:
        return MemorySession(recipe, settings, device)


def counted(key: str):
    """A reader of one field of the count."""
    return lambda record: record["measurement"]["tensors"][key]


def part(kind: str):
    """A reader of one kind's bytes at the peak."""
    return lambda record: record["measurement"]["tensors"]["parts"][kind]


PEAK = Metric(
    name="peak_tensor_bytes",
    title="peak MiB",
    of=counted("peak"),
    better=LOWER,
    noise=EXACT,
    words=("smaller", "larger"),
    form=",.1f",
    scale=MIB,
)


def at_peak(kind: str, short: str, legend: str = "") -> Metric:
    """One part of the peak; together they are the whole."""
    return Metric(
        name=f"{kind}_bytes",
        title=f"{kind}, MiB",
        of=part(kind),
        over="first",
        better=LOWER,
        noise=EXACT,
        form=",.1f",
        scale=MIB,
        stack="tensors at the peak, MiB",
        short=short,
        legend=legend,
    )


LEGEND = "param to temp: MiB at the peak, temp being what is none of the others"
PARTS = (
    at_peak(PARAMETER, "param", LEGEND),
    at_peak(GRADIENT, "grads"),
    at_peak(OPTIMIZER, "optim"),
    at_peak(ACTIVATION, "activ"),
    at_peak(TEMPORARY, "temp"),
)
HOST = Metric(
    name="host_bytes",
    title="host, MiB",
    of=counted("host"),
    over="first",
    better=LOWER,
    noise=EXACT,
    form=",.1f",
    scale=MIB,
)
SKIPPED = Metric(
    name="skipped_steps",
    title="skipped steps",
    of=metrics.measured("skipped"),
    over="max",
    shown=CSV,
)

MEMORY = Memory(
    address="common.workloads.train.memory:MEMORY",
    metrics=(
        PEAK,
        replace(metrics.RATE, shown=BRIEF),
        *PARTS,
        HOST,
        replace(metrics.RESERVED, shown=PAGE),
        *metrics.OF_A_STEP,
        SKIPPED,
    ),
)

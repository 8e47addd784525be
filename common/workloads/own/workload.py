"""A user's own model: what is asked for, how it is measured, checked, and shown."""

import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import describe_in_child, pick_type
from common.engine.device import TYPES
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.plan import Plan
from common.engine.settle import Trials
from common.engine.workload import Check, Launch, Planned
from common.workloads.own import metrics
from common.workloads.own.recipe import LARGEST, OwnRecipe, from_json, to_json
from common.workloads.own.session import OwnSession
from common.workloads.own.settings import Settings
from common.workloads.own.user_file import UserFile, found, hash_of
from common.workloads.train.largest_batch import find_largest
from common.workloads.train.shared import Compiling

BATCH_SIZE = 8
STEPS = {"cpu": 5, "accelerator": 50}  # timed, where no turns are taken, and of a try
WARMUP = {"cpu": 2, "accelerator": 10}
SEARCH_S = 40.0  # for the largest batch, on a CPU
BUDGET_S = 480.0  # of a run in turns
MARGIN = {"initial_indent": "   ", "subsequent_indent": "   "}  # of what stands below a table


@dataclass(frozen=True)
class Place:
    """What a process runs on, and the file that it runs."""

    device: torch.device
    user: UserFile


@dataclass(frozen=True, kw_only=True)
class Own(Compiling):
    """One process that trains what the user's file describes."""

    recipe: type[OwnRecipe] = OwnRecipe
    settings: type[Settings] = Settings
    tries_on_cpu: int = 1

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def extra_text(self, records: list[dict], closely: bool) -> str:
        return textwrap.fill(metrics.compiled_before(records), 77, **MARGIN)

    def given(self, records: list[dict]) -> dict:
        return {metrics.name(records[0]): records[0]["settings"]["sha256"][:12]}

    def warnings(self, record: dict) -> list[str]:
        broken = [f"graph break at {line}" for line in record["measurement"]["graph_breaks"]]
        unsteady = record["equivalence"].get("unsteady", 0.0)
        apart = f"asked twice, the model's gradients differ by {unsteady:.0%}: nothing was compared"
        found = [apart] if unsteady > metrics.STEADY else []
        notes = record["baseline"]["about"]["notes"] if record["rung"] == 0 else []
        return [*notes, *broken, *found, *metrics.starved(record)]

    def advice(self, record: dict) -> list[str]:
        size = record["recipe"]["batch_size"]
        if not isinstance(size, int) or size < 2:
            return []
        return [f"Try --batch-size {size // 2}, or see the memory rungs above the baseline"]

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        group = parser.add_argument_group("your model")
        functions = "a file or module with model(), batch(batch_size, device), loss(model, batch)"
        group.add_argument("--model", metavar="FILE", help=functions)
        group.add_argument(
            "--device", default="auto", metavar="|".join(TYPES), help="default: auto"
        )
        size = f"samples in a step; default: {BATCH_SIZE}"
        group.add_argument("--batch-size", type=whole(1), metavar="N", help=size)
        group.add_argument("--steps", type=whole(1, 1_000_000), metavar="N", help="timed steps")
        group.add_argument(
            "--warmup", type=whole(2, 1_000_000), metavar="N", help="steps before them"
        )

    def plan(self, options: Namespace) -> Planned:
        from common.workloads.own.inspect import inspected

        if options.model is None:
            raise UserError("--ladder own: needs --model FILE, with model(), batch(), and loss()")
        path, module = found(options.model)
        device = describe_in_child(pick_type(options.device))
        kind = "cpu" if device.type == "cpu" else "accelerator"
        size = options.batch_size or BATCH_SIZE
        settings = Settings(
            device=device.type,
            steps=options.steps or STEPS[kind],
            warmup=options.warmup or WARMUP[kind],
            file=str(path),
            module=module,
            sha256=hash_of(path),
        )
        about = inspected(settings, size, options.timeout)
        said = (
            f"{path.name}: {about.name}, {about.parameters:,} parameters, {about.dtype}, batch "
            f"{size}, {about.optimizer}"
        )
        return Planned(
            device=device,
            recipe=OwnRecipe(about=about, batch_size=size),
            settings=settings,
            about=(said, *(f"note: {note}" for note in about.notes)),
            rounds=2 if kind == "cpu" else 3,
            budget_s=BUDGET_S,
        )

    def record_facts(self, recipe: OwnRecipe | None, settings: Settings, device) -> dict:
        return {"format": recipe.format if recipe else None}

    def launch(self, recipe: OwnRecipe) -> Launch:
        own = dict(setting.split("=", 1) for setting in recipe.environment)
        return Launch(environment=super().launch(recipe).environment | own)

    # -- what measuring settles --

    def is_open(self, recipe: OwnRecipe) -> bool:
        return recipe.batch_size == LARGEST

    def close(self, recipe: OwnRecipe, plan: Plan, trials: Trials) -> tuple[OwnRecipe, str]:
        size, limit_gib = plan.baseline.batch_size, plan.device.memory_gib
        found = find_largest(recipe, size, trials, seconds=SEARCH_S, device_gib=limit_gib)
        return replace(recipe, batch_size=found.batch_size), f"search ended at {found.why}"

    def closed_as(self, recipe: OwnRecipe, other: OwnRecipe) -> OwnRecipe:
        return replace(recipe, batch_size=other.batch_size) if self.is_open(recipe) else recipe

    # -- in the process that measures --

    def dump(self, recipe: OwnRecipe) -> dict:
        return to_json(recipe)

    def load(self, values: dict) -> OwnRecipe:
        return from_json(values)

    @contextmanager
    def place(self, recipe: OwnRecipe, settings: Settings) -> Iterator[Place]:
        user = UserFile(Path(settings.file), settings.module, settings.sha256)
        yield Place(torch.device(settings.device), user)

    def check(self, recipe: OwnRecipe, against: Against, settings: Settings, place: Place) -> Check:
        from common.workloads.own.check import check

        others = against.below, against.baseline, against.numerics
        result = check(place.user, recipe, *others, place.device)
        forget_graphs()  # the small batch's must not count as this one's
        return result

    def build(self, recipe: OwnRecipe, settings: Settings, place: Place) -> OwnSession:
        return OwnSession(place.user, recipe, settings, place.device)


OWN = Own(address="common.workloads.own.workload:OWN", metrics=metrics.METRICS)

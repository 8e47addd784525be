"""Adapting a GPT-2 to a text: the workload of the ladder `finetune`."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch

from common.accelerator.device import describe_in_child, pick_type
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.workload import Check, Planned, Writer
from common.workloads.finetune import metrics
from common.workloads.finetune.parts import refuse_rank
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.session import FinetuneSession
from common.workloads.finetune.settings import Settings
from common.workloads.finetune.texts import TaskText, base_weights, task_texts
from common.workloads.train.options import MOST, add_model_options, base_steps, chosen
from common.workloads.train.shared import ModelWorkload

BASE_STEPS = {"tiny": 300, "cpu": 300}  # larger ones are left untrained
UPDATES, UPDATES_ELSEWHERE = {"tiny": 12, "cpu": 16}, 100  # on each text
SEEDS, SEEDS_ELSEWHERE = {"tiny": 1, "cpu": 2}, 3
WARMUP = 2  # updates, before the clock starts: they train as well


@dataclass(frozen=True, kw_only=True)
class Finetune(ModelWorkload):
    """A base, adapted to two texts by a method."""

    recipe: type[FinetuneRecipe] = FinetuneRecipe
    settings: type[Settings] = Settings
    times_its_end: bool = True  # answers and switches are timed after the updates
    must_agree: tuple[str, ...] = ("steps", "warmup", "base_steps")
    called: str = "shapes or updates"
    near: float = 0.0  # rates see the same windows: the least loss is taken

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def given(self, records: list[dict]) -> dict:
        found = metrics.metrics.first_measured(records)
        return {
            "texts": found and " ".join(sha[:12] for sha in found["text_sha256"]),
            "weights": found and found["weights"]["source"],
        }

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        return {"reached": ("reached.png", lambda path: plot_reached(records, path))}

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        add_model_options(parser)
        add = parser.add_argument_group("finetuning").add_argument
        add("--batch-size", type=whole(1, MOST), metavar="N", help="windows in an update")
        files = "texts to adapt to; default: docstrings and code of the standard library"
        add("--tasks", nargs=2, metavar="FILE", help=files)
        file = "a checkpoint of the scripts, or safetensors with GPT-2's names"
        add("--weights", metavar="FILE", help=f"{file}; default: a base model, trained here")
        trained = "steps that the base model is trained for; 0: untrained; default: 300, gpt2 0"
        add("--base-steps", type=whole(0), metavar="N", help=trained)
        many = "updates on each text; default: tiny 12, cpu 16, else 100"
        add("--updates", type=whole(WARMUP + 1, 1_000_000), metavar="N", help=many)
        add("--rank", type=whole(0), default=8, metavar="R", help="of LoRA's products; default: 8")

    def plan(self, options: Namespace) -> Planned:
        device = describe_in_child(pick_type(options.device))
        work = chosen(options, device)
        trained = base_steps(options, BASE_STEPS.get(work.preset, 0))
        refuse_rank(options.rank, work.shape.emb_dim)
        updates = options.updates or UPDATES.get(work.preset, UPDATES_ELSEWHERE)
        settings = Settings(
            shape=work.shape,
            device=device.type,
            steps=2 * updates - WARMUP,
            warmup=WARMUP,
            text=options.text,
            tasks=tuple(options.tasks or ()),
            weights=options.weights,
            base_steps=trained,
        )
        recipe = FinetuneRecipe(batch_size=work.recipe.batch_size, rank=options.rank)
        texts = task_texts(settings)
        for text in texts:
            refuse_short(text, updates, recipe.batch_size)
        weights = base_weights(settings)  # trained before any rung is measured
        shape = work.shape
        about = (
            f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, context "
            f"{shape.context}; {updates} updates of {recipe.batch_size} windows on each text",
            f"{weights.told['source']}; adapted to {' and '.join(text.source for text in texts)}",
        )
        return Planned(
            device=device,
            recipe=recipe,
            settings=settings,
            preset=work.preset,
            about=about,
            rounds=SEEDS.get(work.preset, SEEDS_ELSEWHERE),
        )

    def record_facts(self, recipe, settings: Settings, device: DeviceFacts) -> dict:
        return {"format": recipe.format if recipe else None}

    def rate(self, record: dict) -> float:
        """By the windows that are kept for choosing; those that are reported choose nothing."""
        return 1 / record["measurement"]["tuning_loss"]

    # -- in the process that measures --

    def check(
        self, recipe: FinetuneRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.finetune.check import check

        return check(recipe, against, device)

    def build(
        self, recipe: FinetuneRecipe, settings: Settings, device: torch.device
    ) -> FinetuneSession:
        return FinetuneSession(recipe, settings, device)


def refuse_short(text: TaskText, updates: int, batch: int) -> None:
    """Raises UserError where a text is too short for the updates: none is read twice."""
    if updates * batch > len(text.windows):
        most = len(text.windows) // batch
        remedy = f"at most {most}" if most > WARMUP else "give a longer text"
        raise UserError(
            f"--updates {updates}: {updates * batch:,} windows are wanted, and {text.source} has "
            f"{len(text.windows):,} to train on; {remedy}"
        )


def plot_reached(records: list[dict], path: Path) -> None:
    from common.workloads.finetune import plot_reached  # matplotlib takes a second to import

    plot_reached.plot_reached(records, path)


FINETUNE = Finetune(address="common.workloads.finetune.workload:FINETUNE", metrics=metrics.METRICS)

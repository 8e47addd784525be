"""Training steps of a GPT-2: what is asked for, how it is measured, checked, and shown."""

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import describe_in_child, pick_type
from common.accelerator.peaks import peak_flops
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import output_folder, whole, writable_folder
from common.engine.plan import Plan
from common.engine.records import write_atomically
from common.engine.rungs import REFERENCE
from common.engine.settle import Trials
from common.engine.workload import Check, Launch, Planned, Writer
from common.gpt.shape import Shape
from common.gpt.text import read_text, read_tokens, split
from common.workloads.train import metrics
from common.workloads.train.options import add_workload_options, chosen
from common.workloads.train.presets import PRESETS
from common.workloads.train.recipe import LARGEST, Recipe
from common.workloads.train.session import TrainSession
from common.workloads.train.settings import Settings
from common.workloads.train.shared import CompilingWorkload

MOST_PER_CORE = 8  # processes; each holds a torch of its own


@dataclass(frozen=True, kw_only=True)
class Training(CompilingWorkload):
    """One process that trains."""

    recipe: type[Recipe] = Recipe
    settings: type[Settings] = Settings
    measures_ceilings: bool = True
    processes_on_cpu: int = 1  # by default

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def ceilings_text(self, records: list[dict]) -> str:
        return metrics.ceilings(records)

    def warnings(self, record: dict) -> list[str]:
        wait, batch = metrics.data_wait(record), record["recipe"]["batch_size"]
        low = metrics.low_utilisation(record["window"], wait, batch)
        return [low] if low else []

    def advice(self, record: dict) -> list[str]:
        from common.workloads.train.advice import advice

        recipe, shape = self.recall(record["recipe"]), Shape(**record["settings"]["shape"])
        batch = recipe.batch_size
        if batch == LARGEST or recipe.processes > 1:  # its search ends there; they share it out
            return []
        machine = record["machine"]
        return advice(shape, recipe, batch, machine["device_memory_gib"], machine["device_type"])

    def given(self, records: list[dict]) -> dict:
        found = metrics.first_measured(records)
        return {"text": found and found["text_sha256"][:12]}

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        from common.workloads.train.profile_report import profile_markdown, to_profile

        found = {"losses": ("losses.png", lambda path: plot_losses(records, path))}
        if len(profiles := to_profile(records)):
            page = profile_markdown(profiles, records).encode()
            found["profile_md"] = ("profile.md", lambda path: write_atomically(path, page))
            found["profile"] = ("profile.png", lambda path: plot_profile(profiles, records, path))
        return found

    def extra_text(self, records: list[dict], closely: bool) -> str:
        from common.workloads.train.profile_report import profile_text, to_profile

        if len(profiles := to_profile(records)):
            return profile_text(profiles)
        return "   no profile: no rung was measured with one" if closely else ""

    def rung_details(
        self, rounds: list[dict], before: list[dict]
    ) -> dict[str, list[tuple[str, str, str]]]:
        from common.workloads.train.profile_report import before_and_after

        return before_and_after(before, rounds)

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        add_workload_options(parser)
        add = parser.add_argument_group("training steps").add_argument
        several = (
            "processes, where several train together; default: all accelerators, or 2 on a CPU"
        )
        add("--nproc", type=whole(1, 1024), metavar="N", help=several)
        add("--steps", type=whole(1, 1_000_000), metavar="N", help="timed steps")
        add("--warmup", type=whole(2, 1_000_000), metavar="N", help="steps before them")
        add("--validate", action="store_true", help="also the loss on held-out text at the end")
        add("--profile", action="store_true", help="also where the time of a step goes")
        add("--trace", type=output_folder, metavar="DIR", help="the profiles' events, for Perfetto")

    def plan(self, options: Namespace) -> Planned:
        device = describe_in_child(pick_type(options.device))
        work = chosen(options, device)
        recipe = replace(work.recipe, devices=self.devices(options.nproc, device))
        windows, _ = split(read_tokens(read_text(options.text)), work.shape)  # or say what is wrong
        settings = Settings(
            shape=work.shape,
            device=device.type,
            steps=options.steps or work.defaults.steps,
            # clocks and caches of an accelerator settle for a while; a CPU's step may take a minute
            warmup=options.warmup or (2 if device.type == "cpu" else work.defaults.warmup),
            text=options.text,
            validate=options.validate,
        )
        shape = work.shape
        about = (
            f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
            f"context {shape.context}, batch {recipe.batch_size}, dropout {recipe.dropout:g}"
        )
        return Planned(
            device=device,
            recipe=recipe,
            settings=settings,
            preset=work.preset,
            about=(about, work.note, wraps(len(windows), settings, recipe)),
            rounds=2 if device.type == "cpu" else 3,
            first=self.closely(options, settings),
        )

    def devices(self, wanted: int | None, device: DeviceFacts) -> int:
        """How many may train together. Raises UserError where --nproc is more than there are."""
        on_cpu = device.type == "cpu"
        if wanted and not on_cpu and wanted > device.count:
            raise UserError(f"--nproc {wanted}: there are {device.count} {device.type} devices")
        most = MOST_PER_CORE * (os.cpu_count() or 1)
        if wanted and on_cpu and wanted > most:
            raise UserError(f"--nproc {wanted}: at most {most} processes share this CPU's cores")
        return wanted or (self.processes_on_cpu if on_cpu else device.count)

    def closely(self, options: Namespace, settings: Settings):
        """The first round's settings by rung, where it is profiled."""
        from common.workloads.train.profiling import ACTIVITIES

        if not options.profile and options.trace is None:
            return None
        if settings.device not in ACTIVITIES:
            raise UserError(f"--profile: torch's profiler sees no kernels on {settings.device}")
        folder = options.trace and writable_folder("--trace", options.trace).resolve()

        def of(number: int) -> Settings:
            name = "reference" if number == REFERENCE else f"rung-{number:02}"
            trace = folder and str(folder / f"{name}.json")
            return replace(settings, profile=True, trace=trace)

        return of

    def record_facts(self, recipe: Recipe | None, settings: Settings, device: DeviceFacts) -> dict:
        return {
            "format": recipe.format if recipe else None,
            "flops_per_token": settings.shape.flops_per_token(),
            "peak_flops": peak_flops(device.name, recipe.format) if recipe else None,
            "processes": recipe.processes if recipe else None,
        }

    def launch(self, recipe: Recipe) -> Launch:
        own = dict(setting.split("=", 1) for setting in recipe.environment)
        return Launch(environment=super().launch(recipe).environment | own)

    # -- what measuring settles --

    def is_open(self, recipe: Recipe) -> bool:
        return recipe.batch_size == LARGEST

    def close(self, recipe: Recipe, plan: Plan, trials: Trials) -> tuple[Recipe, str]:
        from common.workloads.train.largest_batch import find_largest

        found = find_largest(
            recipe,
            plan.baseline.batch_size,
            trials,
            seconds=PRESETS[plan.preset].search_s,
            device_gib=plan.device.memory_gib,
        )
        return replace(recipe, batch_size=found.batch_size), f"search ended at {found.why}"

    def closed_as(self, recipe: Recipe, other: Recipe) -> Recipe:
        return replace(recipe, batch_size=other.batch_size) if self.is_open(recipe) else recipe

    # -- in the process that measures --

    def check(
        self, recipe: Recipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.train.equivalence import check

        found = check(recipe, against.below, against.baseline, against.numerics, device)
        forget_graphs()  # the small model's must not count as this one's
        return found

    def build(self, recipe: Recipe, settings: Settings, device: torch.device) -> TrainSession:
        return TrainSession(recipe, settings, device)

    def ceilings(self, recipe: Recipe, settings: Settings) -> dict[str, float]:
        from common.workloads.train.ceilings import measure_ceilings

        return measure_ceilings(recipe, settings.shape, torch.device(settings.device))


def wraps(windows: int, settings: Settings, recipe: Recipe) -> str:
    """That the text is shorter than what a process trains on; empty where it is not."""
    wanted = (settings.steps + settings.warmup) * recipe.batch_size
    if wanted <= windows:
        return ""
    return f"the text has {windows:,} windows: a process goes over it {wanted / windows:.1f} times"


TRAINING = Training(
    address="common.workloads.train.workload:TRAINING",
    metrics=(
        metrics.RATE,
        metrics.RESERVED,
        *metrics.OF_A_STEP,
        metrics.PROCESSES,
        metrics.EFFICIENCY,
    ),
)


def plot_losses(records: list[dict], path: Path) -> None:
    from common.workloads.train import plot_losses  # matplotlib takes a second to import

    plot_losses.plot_losses(records, path)


def plot_profile(profiles, records: list[dict], path: Path) -> None:
    from common.workloads.train import plot_profile

    plot_profile.plot_profile(profiles, records, path)

"""Making a GPT-2 smaller, at what loss: the workload of the ladder `compress`."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from common.accelerator.device import describe_in_child, pick_type
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.workload import Check, Planned, Writer
from common.gpt.text import read_text, read_tokens, split
from common.workloads.compress import metrics
from common.workloads.compress.base import Base, base_for
from common.workloads.compress.integers import Int4
from common.workloads.compress.parts import parts_of
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import CompressSession
from common.workloads.compress.settings import Settings
from common.workloads.train.options import add_model_options, chosen
from common.workloads.train.shared import ModelWorkload

PROMPT, NEW = {"tiny": 32}, {"tiny": 16}  # tokens, by preset
PROMPT_ELSEWHERE, NEW_ELSEWHERE = 192, 32
# of the base model's training: seconds at tiny, two minutes at cpu
BASE_STEPS, BASE_STEPS_ELSEWHERE = {"tiny": 300}, 200
TUNE_STEPS, TUNE_STEPS_ELSEWHERE = {"tiny": 60}, 40
WINDOWS, WINDOWS_ELSEWHERE = {"tiny": 32}, 16  # held out
STEPS = 10  # timed
BITS, GROUPS = (2, 3, 4), (32, 64, 128)


def one_of(*allowed: int) -> Callable[[str], int]:
    """A parser of one of some whole numbers."""

    def parse(text: str) -> int:
        if text not in map(str, allowed):
            *others, last = map(str, allowed)
            raise ArgumentTypeError(f"{text}: must be {', '.join(others)}, or {last}")
        return int(text)

    return parse


@dataclass(frozen=True, kw_only=True)
class Compress(ModelWorkload):
    """A model's file, its loss, and decoding with it."""

    recipe: type[CompressRecipe] = CompressRecipe
    settings: type[Settings] = Settings
    times_its_end: bool = True  # prompts are timed after the steps
    must_agree: tuple[str, ...] = ("windows", "base_steps", "prompt_tokens", "new_tokens")
    called: str = "shapes or texts"

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        return {"pareto": ("pareto.png", lambda path: plot_pareto(records, path))}

    def extra_text(self, records: list[dict], closely: bool) -> str:
        return metrics.controls_text(records)

    def rung_details(
        self, rounds: list[dict], before: list[dict]
    ) -> dict[str, list[tuple[str, str, str]]]:
        return metrics.details(rounds)

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        add_model_options(parser)
        add = parser.add_argument_group("compressing").add_argument
        file = "a checkpoint of the scripts, or safetensors with GPT-2's names"
        add("--weights", metavar="FILE", help=f"{file}; default: a base model, trained here")
        trained = "steps that the base model is trained for; default: 200, tiny 300"
        add("--base-steps", type=whole(10), metavar="N", help=trained)
        tuned = "steps of a rung that trains on, and of its control; default: 40, tiny 60"
        add("--tune-steps", type=whole(1), metavar="N", help=tuned)
        other = "a text to take statistics from; default: windows of the text trained on"
        add("--calibration", metavar="FILE", help=other)
        many = "held-out windows to compare losses on; default: 16, tiny 32"
        add("--windows", type=whole(2), metavar="N", help=many)
        add("--bits", type=one_of(*BITS), default=4, metavar="N", help="of codes in groups: 2 to 4")
        size = "weights that share a scale: 32, 64, or 128"
        add("--group", type=one_of(*GROUPS), default=32, metavar="N", help=size)
        most = "what the file with formats mixed may take; default: a sixth of float32's"
        add("--budget-bytes", type=whole(1, 10**15), metavar="N", help=most)
        add("--prompt-tokens", type=whole(1), metavar="N", help="default: 192, tiny 32")
        add(
            "--new-tokens", type=whole(1), metavar="N", help="in a timed step; default: 32, tiny 16"
        )
        add("--steps", type=whole(1, 1_000_000), metavar="N", help="timed steps")
        add("--warmup", type=whole(2, 1_000_000), metavar="N", help="steps before them")

    def plan(self, options: Namespace) -> Planned:
        device = describe_in_child(pick_type(options.device))
        work = chosen(options, device)
        split(read_tokens(read_text(options.text)), work.shape)  # or say what is wrong
        if options.weights is not None and options.base_steps is not None:
            raise UserError("--base-steps: without --weights, which is not trained here")
        if work.shape.emb_dim % options.group:
            raise UserError(
                f"--group {options.group}: does not divide the width of {work.shape.emb_dim}"
            )
        context, preset = work.shape.context, work.preset
        prompt = options.prompt_tokens or min(PROMPT.get(preset, PROMPT_ELSEWHERE), context // 2)
        new = options.new_tokens or min(NEW.get(preset, NEW_ELSEWHERE), context // 2)
        if prompt + new > context:
            raise UserError(
                f"--new-tokens {new}: with a prompt of {prompt} longer than the context of "
                f"{context}; at most {max(0, context - prompt)}"
            )
        settings = Settings(
            shape=work.shape,
            device=device.type,
            steps=options.steps or STEPS,
            warmup=options.warmup or 2,
            text=options.text,
            calibration=options.calibration,
            prompt_tokens=prompt,
            new_tokens=new,
            weights=options.weights,
            base_steps=options.base_steps or BASE_STEPS.get(preset, BASE_STEPS_ELSEWHERE),
            tune_steps=options.tune_steps or TUNE_STEPS.get(preset, TUNE_STEPS_ELSEWHERE),
            windows=options.windows or WINDOWS.get(preset, WINDOWS_ELSEWHERE),
            budget_bytes=options.budget_bytes,
        )
        recipe = CompressRecipe(bits=options.bits, group=options.group)
        base = base_for(settings)  # trained before any rung is measured
        if options.budget_bytes is not None:
            refuse_budget(base, replace(recipe, dtype=torch.bfloat16), settings)
        return Planned(
            device=device,
            recipe=recipe,
            settings=settings,
            preset=work.preset,
            about=told(settings, base),
            rounds=1,
        )

    # -- in the process that measures --

    def check(
        self, recipe: CompressRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.compress.check import check

        return check(recipe, against, settings, device)

    def build(
        self, recipe: CompressRecipe, settings: Settings, device: torch.device
    ) -> CompressSession:
        return CompressSession(recipe, settings, device)


def refuse_budget(base: Base, recipe: CompressRecipe, settings: Settings) -> None:
    """Raises UserError for a budget that no mix of formats fits."""
    from common.workloads.compress.sensitivity import room_for_matrices

    smallest = replace(recipe, format=Int4)
    room_for_matrices(parts_of(base.state, base.shape.heads), smallest, settings.budget_bytes)


def told(settings: Settings, base: Base) -> tuple[str, str]:
    """Lines to begin with."""
    shape = settings.shape
    return (
        f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, context "
        f"{shape.context}; a step: {settings.new_tokens} tokens after {settings.prompt_tokens}",
        base.told["source"],
    )


COMPRESS = Compress(address="common.workloads.compress.workload:COMPRESS", metrics=metrics.METRICS)


def plot_pareto(records: list[dict], path) -> None:
    from common.workloads.compress import plot_pareto  # matplotlib takes a second to import

    plot_pareto.plot_pareto(records, path)

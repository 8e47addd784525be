"""Generating text with a GPT-2, one token after another: the workload of the ladder `inference`."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import describe_in_child, pick_type
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.records import write_atomically
from common.engine.workload import Check, Planned, Writer
from common.gpt.text import read_text, read_tokens, split
from common.workloads.generate import lengths, metrics
from common.workloads.generate.base import Weights, weights_for
from common.workloads.generate.draft_model import draft_weights
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import GenerateSession, kept_shape
from common.workloads.generate.settings import Settings
from common.workloads.generate.stream_session import StreamSession
from common.workloads.train.options import add_model_options, base_steps, chosen
from common.workloads.train.shared import CompilingWorkload

PROMPT, NEW = {"tiny": 32}, {"tiny": 16}  # tokens, by preset
PROMPT_ELSEWHERE, NEW_ELSEWHERE = 256, 32
# of the base model's training: seconds at tiny, a minute at cpu; larger ones are left untrained
BASE_STEPS = {"tiny": 60, "cpu": 60}
MOST_LENGTHS = 6  # beside the prompt's own: a table of 80 columns has room for no more
UPTRAINED = 3  # a third of these again, where heads share keys and values
STEPS = {"cpu": 3}  # timed, of a process that takes no turns
STEPS_ELSEWHERE = 20


@dataclass(frozen=True, kw_only=True)
class Generate(CompilingWorkload):
    """Decoding of requests whose prompts were read before."""

    recipe: type[GenerateRecipe] = GenerateRecipe
    settings: type[Settings] = Settings
    measures_ceilings: bool = True
    times_its_end: bool = True  # prompts are timed after the steps
    must_agree: tuple[str, ...] = ("prompt_tokens", "new_tokens", "stream")
    called: str = "shapes or lengths"

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def ceilings_text(self, records: list[dict]) -> str:
        return metrics.ceilings(records)

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        if not lengths.curves(records):
            return {}
        return {
            "lengths_md": ("lengths.md", partial(write_lengths, records)),
            "lengths": ("lengths.png", partial(draw_lengths, records)),
        }

    def extra_text(self, records: list[dict], closely: bool) -> str:
        return "\n\n".join(filter(None, (metrics.streams(records), lengths.to_text(records))))

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        add_model_options(parser)
        group = parser.add_argument_group("generating")
        add = group.add_argument
        before = "tokens before the first new one; default: 256, tiny 32"
        add("--prompt-tokens", type=whole(1), metavar="N", help=before)
        others = (
            f"also time tokens after prompts of these lengths, up to {MOST_LENGTHS}: lengths.png"
        )
        add("--lengths", type=length_list, default=(), metavar="N[,N…]", help=others)
        after = "tokens decoded in a timed step; default: 32, tiny 16"
        add("--new-tokens", type=whole(1), metavar="N", help=after)
        uneven = "requests of a stream, at rungs that serve one; default: 32"
        add("--stream", type=whole(16, 100_000), metavar="N", help=uneven)
        self.add_weights_options(group)
        add("--steps", type=whole(1, 1_000_000), metavar="N", help="timed steps")
        add("--warmup", type=whole(2, 1_000_000), metavar="N", help="steps before them")

    @staticmethod
    def add_weights_options(group) -> None:
        """Whose text it is; also of the command that writes it."""
        add = group.add_argument
        file = "a checkpoint of the scripts, or safetensors with GPT-2's names"
        add("--weights", metavar="FILE", help=f"{file}; default: a base model, trained here")
        trained = "steps that the base model is trained for; 0: untrained; default: 60, gpt2 0"
        add("--base-steps", type=whole(0), metavar="N", help=trained)
        small = "a smaller model's weights, which guesses for --weights FILE, in the same formats"
        add("--draft", metavar="FILE", help=f"{small}; default: trained as the base model")
        more = "steps that it is trained further where heads share keys and values, and beside it "
        more += "as it is; default: a third of --base-steps"
        add("--uptrain-steps", type=whole(0), metavar="N", help=more)

    def plan(self, options: Namespace) -> Planned:
        device = describe_in_child(pick_type(options.device))
        work = chosen(options, device)
        split(read_tokens(read_text(options.text)), work.shape)  # or say what is wrong
        if options.draft is not None and options.weights is None:
            raise UserError("--draft: with --weights alone, whose text it guesses")
        trained = base_steps(options, BASE_STEPS.get(work.preset, 0))
        settings = Settings(
            shape=work.shape,
            device=device.type,
            steps=options.steps or STEPS.get(device.type, STEPS_ELSEWHERE),
            warmup=options.warmup or 2,
            text=options.text,
            prompt_tokens=options.prompt_tokens or PROMPT.get(work.preset, PROMPT_ELSEWHERE),
            new_tokens=options.new_tokens or NEW.get(work.preset, NEW_ELSEWHERE),
            stream=options.stream or Settings.stream,
            weights=options.weights,
            draft=options.draft,
            lengths=options.lengths,
            base_steps=trained,
            uptrain_steps=self.uptrain_steps(options, trained),
        )
        settings = fitted(settings, options)
        weights = weights_for(settings)  # trained before any rung is measured
        draft_weights(settings)  # likewise
        return Planned(
            device=device,
            recipe=GenerateRecipe(),
            settings=settings,
            preset=work.preset,
            about=told(settings, weights),
            turns=work.preset != "tiny",  # whose rates say nothing: one round
            rounds=1 if work.preset == "tiny" else 2 if device.type == "cpu" else 3,
        )

    @staticmethod
    def uptrain_steps(options: Namespace, base_steps: int) -> int:
        """Raises UserError where no base model is trained that could be trained further."""
        asked = options.uptrain_steps
        if asked and not base_steps:
            said = "only a base model that is trained here is trained further; see --base-steps"
            raise UserError(f"--uptrain-steps {asked}: {said}")
        return base_steps // UPTRAINED if asked is None else asked

    def record_facts(self, recipe, settings: Settings, device: DeviceFacts) -> dict:
        return {"format": recipe.format if recipe else None}

    def briefly(self, settings: Settings) -> Settings:
        return replace(settings, lengths=())

    # -- in the process that measures --

    def check(
        self, recipe: GenerateRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.generate.check import check

        kept_shape(recipe, settings.shape)  # or DoesNotApply, before anything is compiled
        found = check(recipe, against, device)
        forget_graphs()  # the small model's must not count as this one's
        return found

    def build(
        self, recipe: GenerateRecipe, settings: Settings, device: torch.device
    ) -> GenerateSession:
        kind = StreamSession if recipe.schedule else GenerateSession
        return kind(recipe, settings, device)

    def ceilings(self, recipe, settings: Settings) -> dict[str, float]:
        from common.workloads.generate.ceilings import read_bandwidth

        return {"read": read_bandwidth(torch.device(settings.device))}


def fitted(settings: Settings, options: Namespace) -> Settings:
    """The settings, if prompt and answer fit the context. Raises UserError otherwise.

    Lengths that nobody asked for are cut to it.
    """
    context, prompt, new = settings.shape.context, settings.prompt_tokens, settings.new_tokens
    if options.prompt_tokens is None:
        prompt = min(prompt, max(1, context - new))
    if options.new_tokens is None:
        new = min(new, max(1, context - prompt))
    if prompt >= context:
        raise UserError(
            f"--prompt-tokens {prompt}: leaves no room for an answer in the context of {context}; "
            f"at most {context - 1}"
        )
    if prompt + new > context:
        raise UserError(
            f"--new-tokens {new}: with a prompt of {prompt} longer than the context of {context}; "
            f"at most {context - prompt}"
        )
    for length in settings.lengths:
        if length + new > context:
            raise UserError(
                f"--lengths {length}: with {new} new tokens longer than the context of {context}; "
                f"at most {context - new}"
            )
    return replace(settings, prompt_tokens=prompt, new_tokens=new)


def length_list(text: str) -> tuple[int, ...]:
    """A parser of numbers of tokens with commas between them: sorted, each once."""
    found = sorted({whole(1)(part.strip()) for part in text.split(",")})
    if len(found) > MOST_LENGTHS:
        raise ArgumentTypeError(f"{text}: at most {MOST_LENGTHS} lengths")
    return tuple(found)


def draw_lengths(records: list[dict], path: Path) -> None:
    from common.workloads.generate.plot_lengths import plot  # matplotlib takes a second to import

    plot(records, path)


def write_lengths(records: list[dict], path: Path) -> None:
    write_atomically(path, lengths.to_markdown(records).encode())


def told(settings: Settings, weights: Weights) -> tuple[str, str]:
    """Lines to begin with."""
    shape = settings.shape
    return (
        f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, context "
        f"{shape.context}; a step: {settings.new_tokens} tokens after {settings.prompt_tokens}",
        weights.told["source"],
    )


GENERATE = Generate(address="common.workloads.generate.workload:GENERATE", metrics=metrics.METRICS)

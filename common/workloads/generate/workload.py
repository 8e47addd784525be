"""Generating text with a GPT-2, one token after another: the workload of the ladder `inference`."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from common.accelerator.compiler import compile_cache, empty_compile_cache, forget_graphs
from common.accelerator.device import describe_in_child, pick_type, torch_facts
from common.engine.device import DeviceFacts, container_quota, threads_allowed
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.process import Outcome
from common.engine.records import write_atomically
from common.engine.workload import Check, Launch, Planned, Workload, Writer
from common.gpt.text import read_text, read_tokens, split
from common.workloads.generate import lengths, metrics
from common.workloads.generate.base import Weights, weights_for
from common.workloads.generate.draft_model import draft_weights
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import GenerateSession, kept_shape
from common.workloads.generate.settings import Settings
from common.workloads.generate.stream_session import StreamSession
from common.workloads.train.options import add_model_options, chosen
from common.workloads.train.workload import BROKE

PROMPT, NEW = {"tiny": 32}, {"tiny": 16}  # tokens, by preset
PROMPT_ELSEWHERE, NEW_ELSEWHERE = 256, 32
# of the base model's training: seconds at tiny, a minute at cpu; larger ones are left untrained
BASE_STEPS = {"tiny": 60, "cpu": 60}
MOST_LENGTHS = 6  # beside the prompt's own: a table of 80 columns has room for no more
UPTRAINED = 3  # a third of these again, where heads share keys and values
STEPS = {"cpu": 3}  # timed, of a process that takes no turns
STEPS_ELSEWHERE = 20


@dataclass(frozen=True, kw_only=True)
class Generate(Workload):
    """Decoding of requests whose prompts were read before."""

    recipe: type[GenerateRecipe] = GenerateRecipe
    settings: type[Settings] = Settings
    measures_ceilings: bool = True
    times_its_end: bool = True  # prompts are timed after the steps

    # -- in reports --

    def describe(self, records: list[dict]) -> str:
        return metrics.describe(records)

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def ceilings_text(self, records: list[dict]) -> str:
        return metrics.ceilings(records)

    def given(self, records: list[dict]) -> dict:
        found = next((r["measurement"] for r in records if r["status"] == "ok"), None)
        return {
            "text": found and found["text_sha256"][:12],
            "weights": found and found["weights"]["source"],
        }

    def unlike(self, a: dict, b: dict) -> str:
        one, other = ({**r["settings"], **r["settings"]["shape"]} for r in (a, b))
        names = (*a["settings"]["shape"], "prompt_tokens", "new_tokens", "stream")
        pairs = {k: (one.get(k), other.get(k)) for k in names}  # "stream" came later
        fields = [f"{k} {own} and {its}" for k, (own, its) in pairs.items() if own != its]
        return f"different shapes or lengths: {', '.join(fields)}" if fields else ""

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
        base_steps = self.base_steps(options, work.preset)
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
            base_steps=base_steps,
            uptrain_steps=self.uptrain_steps(options, base_steps),
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
    def base_steps(options: Namespace, preset: str) -> int:
        """That the base model is trained for. Raises UserError where a file's weights are not."""
        if options.weights is not None and options.base_steps is not None:
            raise UserError("--base-steps: without --weights, which is not trained here")
        if options.weights is not None:
            return 0
        usual = BASE_STEPS.get(preset, 0)
        return usual if options.base_steps is None else options.base_steps

    @staticmethod
    def uptrain_steps(options: Namespace, base_steps: int) -> int:
        """Raises UserError where no base model is trained that could be trained further."""
        asked = options.uptrain_steps
        if asked and not base_steps:
            said = "only a base model that is trained here is trained further; see --base-steps"
            raise UserError(f"--uptrain-steps {asked}: {said}")
        return base_steps // UPTRAINED if asked is None else asked

    def facts(self, device: DeviceFacts) -> dict:
        return torch_facts(device)

    def record_facts(self, recipe, settings: Settings, device: DeviceFacts) -> dict:
        return {"format": recipe.format if recipe else None}

    def launch(self, recipe: GenerateRecipe) -> Launch:
        # torch sees an affinity, but no container's quota, and then has too many threads
        limits = {"OMP_NUM_THREADS": str(threads_allowed())} if container_quota() else {}
        return Launch(environment=compile_cache() | limits)

    def again(self, recipe: GenerateRecipe, outcome: Outcome) -> str:
        """A compiled rung that broke is tried with an empty cache: a kill may have damaged it."""
        if not (recipe.compile and outcome.status == "failed" and BROKE.match(outcome.reason)):
            return ""
        return "compiled with an empty cache" if empty_compile_cache() else ""

    def briefly(self, settings: Settings) -> Settings:
        return replace(settings, lengths=())

    # -- in the process that measures --

    def dump(self, recipe: GenerateRecipe) -> dict:
        return recipe.to_json()

    def load(self, values: dict) -> GenerateRecipe:
        return GenerateRecipe.from_json(values)

    def recall(self, values: dict) -> GenerateRecipe:
        return GenerateRecipe.from_record(values)

    def load_settings(self, values: dict) -> Settings:
        return self.settings.from_json(values)

    @contextmanager
    def place(self, recipe, settings: Settings) -> Iterator[torch.device]:
        yield torch.device(settings.device)

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

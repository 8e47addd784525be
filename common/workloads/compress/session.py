"""A compressed model, as the clock meets it. A step is `new_tokens` decoded after a prompt.

The model is read from the file that is counted. Prefill is timed apart, after the timed steps, and
quality is measured then.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from common.accelerator.device import PeakMemory, give_back, make_clock, room
from common.engine.clock import Clock
from common.engine.session import Session, Timed
from common.gpt.text import read_text, read_tokens, split
from common.workloads.compress.base import base_for
from common.workloads.compress.compressing import Compressed, compressed
from common.workloads.compress.formats import Format
from common.workloads.compress.model import Cache, Model, decode, of_parts
from common.workloads.compress.parts import parts_of
from common.workloads.compress.quality import compare, held_out
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.settings import Settings
from common.workloads.generate.session import refuse_other_answers, time_of_prompt


@dataclass(slots=True)
class Run:
    """A built recipe. Probes look at it to see what really runs."""

    recipe: CompressRecipe
    compressed: Compressed
    model: Model
    new_tokens: int  # in a step
    operators: Counter[str] = field(default_factory=Counter)  # calls in one profiled step

    @property
    def told(self) -> dict:
        """What compressing said of its work."""
        return self.compressed.told

    def layers(self) -> list[Format]:
        """What multiplies once for each token; a tied head is the embedding, and there once."""
        found = [layer for layer in self.model.modules() if isinstance(layer, Format)]
        reads = [] if self.model.head is self.model.embedding else [self.model.embedding]
        return [layer for layer in found if layer not in reads]


def kernel_calls(run: Run) -> tuple[int, int]:
    """How often the formats' own kernels were called in the profiled step, and how often is due."""
    names = Counter(layer.operator for layer in run.layers() if layer.operator)
    called = sum(min(run.operators[name], n * run.new_tokens) for name, n in names.items())
    return called, names.total() * run.new_tokens


class CompressSession(Session):
    """One process that decodes with a compressed model."""

    settings: Settings

    def __init__(self, recipe: CompressRecipe, settings: Settings, device: torch.device) -> None:
        super().__init__(settings)
        self.recipe, self.device = recipe, device
        self.text, self.base = read_text(settings.text), base_for(settings)
        _, windows = split(read_tokens(self.text), settings.shape)
        self.windows = held_out(windows, settings.windows)
        packed = compressed(self.base, recipe, settings)
        self.run = Run(recipe, packed, packed.model(recipe.dtype, device), settings.new_tokens)
        self.cache = Cache(self.run.model, 1, settings.prompt_tokens + settings.new_tokens)
        self.prompt = self.windows[0][None, : settings.prompt_tokens].to(device)
        self.begun = self.prefill()  # (1, 1): the token that each answer begins with
        self.decoded: list[torch.Tensor] = []  # (1, new_tokens) of every step
        self.memory = PeakMemory(device)

    @property
    def probed(self) -> Run:
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    def prefill(self) -> torch.Tensor:
        """The prompt into the empty cache; gives the first token after it, (1, 1)."""
        self.cache.length = 0
        return self.run.model(self.prompt, self.cache, last=1).argmax(dim=-1)

    def step(self) -> None:
        self.cache.length = self.settings.prompt_tokens
        tokens, self.last = decode(self.run.model, self.cache, self.begun, self.run.new_tokens)
        if not self.decoded:
            self.first = self.last
        self.decoded.append(tokens)

    def look(self) -> None:
        """One profiled step: which operators ran how often."""
        give_back(self.device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step()
        self.run.operators = Counter(event.name for event in profile.events())

    def begin(self) -> None:
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def audit(self) -> None:
        refuse_other_answers(self.decoded, self.first, self.last)

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, sizes in bytes, losses in nats."""
        packed, reserved = self.run.compressed, self.peaks[0]
        tell("prompts")
        prefill_s = time_of_prompt(self.prefill, self.device)
        tell("held-out loss")
        plain = of_parts(parts_of(self.base.state, self.base.shape.heads)).to(self.device)
        controls = {}
        for name, recipe in self.recipe.controls().items():
            tell(f"held-out loss of {name}")
            other = compressed(self.base, recipe, self.settings)
            found = compare(other.model(recipe.dtype, self.device), plain, self.windows)
            controls[name] = found.to_json() | {"file_bytes": other.file_bytes}
        return {
            "tokens_per_step": self.settings.new_tokens,
            "file_bytes": packed.file_bytes,
            "resident_bytes": self.run.model.resident_bytes,
            "bits_per_weight": packed.bits_per_weight,
            "prefill_s": prefill_s,
            "quality": compare(self.run.model, plain, self.windows).to_json(),
            "controls": controls,
            "told": packed.told,
            "peak_reserved_gib": reserved,
            "text_sha256": self.text.sha256,
            "text_source": self.text.source,
            "weights": self.base.told,
        }

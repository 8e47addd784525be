"""Decoding, as the clock meets it. A step is `new_tokens` of each request after its prompt.

After each step the cache is rolled back to the prompt's end, so that every step is the same work
and must give the same tokens. The prompt's own time is taken apart, after the timed steps.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import mean, median

import torch
from torch.nn import functional as F

from common.accelerator.compiler import compiled_graphs, forget_graphs
from common.accelerator.device import PeakMemory, give_back, make_clock, room, synchronize
from common.engine.clock import Clock, time_steps
from common.engine.contract import Disturbed
from common.engine.session import Session, Timed
from common.gpt.shape import Shape
from common.gpt.text import Windows, read_text, read_tokens, split
from common.workloads.generate.caches import Cache
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import Decoder, State, decode, likeliest
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.settings import Settings
from common.workloads.generate.uptrain import control, weights_with

PREFILLS = 5  # timed, after one that is not
HELD_OUT = 4  # windows, of a trained model
STEPS_AFTER, SECONDS_AFTER = 5, 0.3  # timed after each of --lengths: both at least
SAME = 1e-3  # relative: a step is the same computation as any other


@dataclass(slots=True)
class Run:
    """A built recipe. Probes look at it to see what really runs."""

    recipe: GenerateRecipe
    shape: Shape
    device: torch.device
    model: Decoder
    cache: Cache
    new_tokens: int  # in a step, of each request
    operators: Counter[str] = field(default_factory=Counter)  # calls in one profiled step
    rows: list[int] = field(default_factory=list)  # tokens that ran for each new one, in that step
    graphs: int = 0  # compiled
    graph_breaks: int = 0

    @property
    def layers(self) -> int:
        return len(self.model.blocks)


def build(
    recipe: GenerateRecipe, shape: Shape, state: State, capacity: int, device: torch.device
) -> tuple[Decoder, Cache]:
    """The model from its parameters, float32, and an empty cache. Raises DoesNotApply."""
    kept = kept_shape(recipe, shape)
    torch.set_float32_matmul_precision("highest")
    state = {name: parameter.to(device) for name, parameter in state.items()}
    model = Decoder(shape.heads, state, recipe)
    cache = recipe.cache(kept, recipe.dtype, recipe.requests, capacity, device)
    if recipe.compile:
        model.one_by_one = torch.compile(
            model.logits, fullgraph=True, dynamic=False, mode=recipe.compile_mode
        )
    return model, cache


def kept_shape(recipe: GenerateRecipe, shape: Shape) -> Shape:
    """The model's shape with the heads, and their width, that a cache keeps."""
    heads = recipe.attention.kv_heads(shape.heads, recipe)
    return replace(shape, heads=heads, emb_dim=shape.emb_dim // shape.heads * heads)


def kernel_calls(run: Run) -> tuple[int, int]:
    """How often the weights' own kernel was called in the profiled step, and how often is due.

    Due is once for every weight matrix and new token.
    """
    layers = [module for module in run.model.modules() if isinstance(module, Linear)]
    names = {layer.operator for layer in layers}
    return sum(run.operators[name] for name in names), len(layers) * run.new_tokens


def prompts(windows: Windows, requests: int, tokens: int) -> torch.Tensor:
    """The beginnings of held-out windows, (B, tokens) int64; one after the other, then again."""
    numbers = [request % len(windows) for request in range(requests)]
    return torch.stack([windows[number][0][:tokens] for number in numbers])


class GenerateSession(Session):
    """One process that decodes."""

    settings: Settings

    def __init__(self, recipe: GenerateRecipe, settings: Settings, device: torch.device) -> None:
        super().__init__(settings)
        self.recipe, self.device = recipe, device
        self.text = read_text(settings.text)
        _, self.held_out = split(read_tokens(self.text), settings.shape)
        weights = weights_with(settings, kept_shape(recipe, settings.shape).heads)
        self.told, self.trained = weights.told, weights.trained
        capacity = settings.prompt_tokens + settings.new_tokens
        model, cache = build(recipe, settings.shape, weights.state, capacity, device)
        self.run = Run(recipe, settings.shape, device, model, cache, settings.new_tokens)
        self.prompt = prompts(self.held_out, recipe.requests, settings.prompt_tokens).to(device)
        self.begun = self.prefill()  # (B, 1): the token that each answer begins with
        self.decoded: list[torch.Tensor] = []  # (B, new_tokens) of every step
        self.lengths: list[int] = []  # of the cache, after every step
        self.cache_bytes = 0
        self.memory = PeakMemory(device)

    @property
    def probed(self) -> Run:
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    @torch.no_grad()
    def prefill(self) -> torch.Tensor:
        """The prompt into the empty cache; gives the first token after it, (B, 1)."""
        self.run.cache.rollback(0)
        return likeliest(self.run.model(self.prompt, self.run.cache))

    def step(self) -> None:
        cache = self.run.cache
        tokens, self.last = decode(self.run.model, cache, self.begun, self.run.new_tokens)
        if not self.decoded:
            self.first = self.last
        self.decoded.append(tokens)
        self.lengths.append(cache.length)
        self.cache_bytes = max(self.cache_bytes, cache.nbytes)
        cache.rollback(self.settings.prompt_tokens)

    def look(self) -> None:
        """One profiled step: which operators ran how often, and how many tokens ran for each."""
        give_back(self.device)
        cache = self.run.cache
        begin = cache.begin

        def counting(ids: torch.Tensor):
            found = begin(ids)
            self.run.rows.append(found[0].numel())
            return found

        cache.begin = counting
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step()
        del cache.begin
        self.run.operators = Counter(event.name for event in profile.events())

    def ready(self) -> None:
        self.run.graphs, self.run.graph_breaks = compiled_graphs()

    def begin(self) -> None:
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def audit(self) -> None:
        settings = self.settings
        if compiled_graphs()[0] != self.run.graphs:
            raise Disturbed("the model was compiled again within the timed steps")
        due = settings.prompt_tokens + settings.new_tokens
        if set(self.lengths) != {due}:
            raise Disturbed(f"steps ended at {sorted(set(self.lengths))} tokens instead of {due}")
        others = sum(not torch.equal(one, self.decoded[0]) for one in self.decoded)
        if others:
            raise Disturbed(f"{others} of {len(self.decoded)} steps decoded other tokens")
        apart = (self.last - self.first).norm() / self.first.norm()
        if not apart < SAME:
            raise Disturbed(f"the last step's logits differ from the first one's by {apart:.1e}")

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, memory in bytes or GiB, losses in nats."""
        settings, model, cache = self.settings, self.run.model, self.run.cache
        reserved, allocated = self.peaks
        first = settings.prompt_tokens + 1
        lengths = range(first, first + settings.new_tokens)  # that new tokens see
        return {
            "tokens_per_step": settings.new_tokens * self.recipe.requests,
            "cache_bytes": self.cache_bytes,
            "weight_bytes": model.weight_bytes,
            "read_bytes": model.read_bytes + mean(map(cache.reads, lengths)),  # of a pass
            "acceptance": None,
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,
            "text_sha256": self.text.sha256,
            "text_source": self.text.source,
            "weights": self.told,
            "decoded": self.decoded[0][0].tolist(),
            "ttft_s": self.time_to_first_token(tell),
            "held_out_loss": self.held_out_loss(model, cache.shape, tell),
            "control_loss": self.control_loss(tell),
            "step_s_after": self.after_other_prompts(tell),
        }

    def time_to_first_token(self, tell: Callable[[str], None]) -> float:
        """Seconds from a prompt to the token after it, the median of some."""
        tell("prompts")
        seconds = []
        for _ in range(1 + PREFILLS):
            synchronize(self.device)
            begin = time.perf_counter()
            self.prefill()
            synchronize(self.device)
            seconds.append(time.perf_counter() - begin)
        return median(seconds[1:])

    def after_other_prompts(self, tell: Callable[[str], None]) -> dict[str, list[float]]:
        """Seconds of steps after prompts of other lengths, by tokens; in sessions of their own."""
        found = {}
        for tokens in self.settings.lengths:
            tell(f"prompts of {tokens} tokens")
            forget_graphs()  # their number in one process is limited
            settings = replace(self.settings, prompt_tokens=tokens, lengths=())
            found[str(tokens)] = type(self)(self.recipe, settings, self.device).some_steps()
        return found

    def some_steps(self) -> list[float]:
        """Seconds of a few steps after two that are not timed. Raises Disturbed."""
        for _ in range(2):
            self.step()
        self.ready()
        end = time.perf_counter() + SECONDS_AFTER
        seconds, _ = time_steps(
            self.step,
            lambda done: done < STEPS_AFTER or time.perf_counter() < end,
            self.clock(),
        )
        self.audit()
        return seconds

    def control_loss(self, tell: Callable[[str], None]) -> float | None:
        """The loss that sharing is judged by: of the multi-head model that was trained as long."""
        shape = self.settings.shape
        if self.run.cache.shape.heads == shape.heads or not self.trained:
            return None
        state = control(self.settings).state
        model, _ = build(self.recipe, shape, state, 1, self.device)  # whose cache is not used
        return self.held_out_loss(model, shape, tell)

    @torch.no_grad()
    def held_out_loss(
        self, model: Decoder, kept: Shape, tell: Callable[[str], None]
    ) -> float | None:
        """Mean loss in nats of the first held-out windows, float32; None: weights not trained."""
        if not self.trained:
            return None
        tell("held-out loss")
        shape, losses = self.settings.shape, []
        whole = self.recipe.cache(kept, self.recipe.dtype, 1, shape.context, self.device)
        for number in range(min(HELD_OUT, len(self.held_out))):
            inputs, targets = (part.to(self.device) for part in self.held_out[number])
            whole.rollback(0)
            logits = model(inputs[None], whole, last=shape.context)  # (1, T, V)
            losses.append(F.cross_entropy(logits[0].float(), targets).item())
        return mean(losses)

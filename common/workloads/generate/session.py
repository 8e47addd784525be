"""Decoding, as the clock meets it. A step is `new_tokens` of each request after its prompt.

After each step the cache is rolled back to the prompt's end, so that every step is the same work
and must give the same tokens. The prompt's own time is taken apart, after the timed steps.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
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
from common.workloads.generate.draft_model import draft_weights
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import Decoder, State, decode, likeliest
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.settings import Settings
from common.workloads.generate.speculation import (
    Draft,
    Round,
    Target,
    acceptance,
    agreement,
    costs,
    predicted,
    speculate,
)
from common.workloads.generate.stream import Served
from common.workloads.generate.uptrain import control, weights_with

PREFILLS = 5  # timed, after one that is not
HELD_OUT = 4  # windows, of a trained model
STEPS_AFTER, SECONDS_AFTER = 5, 0.3  # timed after each of --lengths: both at least
SAME = 1e-3  # relative: a step is the same computation as any other
NEAR = 0.05  # of the logits' root mean square: a tie, as far as bfloat16 can tell


@dataclass(slots=True)
class Run:
    """A built recipe. Probes look at it to see what really runs."""

    recipe: GenerateRecipe
    shape: Shape
    device: torch.device
    model: Decoder
    cache: Cache
    new_tokens: int  # in a step, of each request; of a stream, passes
    draft: Draft | None
    operators: Counter[str] = field(default_factory=Counter)  # calls in one profiled step
    passes: list[Decoder] = field(default_factory=list)  # in that step: whose, one after another
    rows: list[int] = field(default_factory=list)  # tokens that ran in each of the model's passes
    rounds: list[Round] = field(default_factory=list)  # of a step with a draft
    read_bytes: float = 0.0  # of weights, keys, and values in that step
    served: Served | None = None  # what a step made of a stream
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

    Due is once for every weight matrix and pass.
    """
    layers = [
        module for model in run.passes for module in model.modules() if isinstance(module, Linear)
    ]
    names = {layer.operator for layer in layers}
    return sum(run.operators[name] for name in names), len(layers)


def profiler() -> torch.profiler.profile:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def called(profile: torch.profiler.profile) -> Counter[str]:
    """How often each operator was. By the raw events: torch's list of them takes many seconds."""
    return Counter(event.name() for event in profile.profiler.kineto_results.events())


def prompts(windows: Windows, requests: int, tokens: int) -> torch.Tensor:
    """The beginnings of held-out windows, (B, tokens) int64; one after the other, then again."""
    numbers = [request % len(windows) for request in range(requests)]
    return torch.stack([windows[number][0][:tokens] for number in numbers])


def refuse_other_answers(
    decoded: list[torch.Tensor], first: torch.Tensor, last: torch.Tensor
) -> None:
    """Raises Disturbed where steps decoded other tokens, or the last one's logits are others."""
    others = sum(not torch.equal(one, decoded[0]) for one in decoded)
    if others:
        raise Disturbed(f"{others} of {len(decoded)} steps decoded other tokens")
    apart = (last - first).norm() / first.norm()
    if not apart < SAME:
        raise Disturbed(f"the last step's logits differ from the first one's by {apart:.1e}")


def time_of_prompt(prefill: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Seconds for a prompt and the token after it: the median of some."""
    seconds = []
    for _ in range(1 + PREFILLS):
        synchronize(device)
        begin = time.perf_counter()
        prefill()
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return median(seconds[1:])


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
        target = Target(
            recipe=recipe,
            shape=settings.shape,
            model=model,
            cache=cache,
            trained=self.trained,
            smaller=lambda: draft_weights(settings),
        )
        draft = recipe.draft(target) if recipe.draft else None
        self.run = Run(recipe, settings.shape, device, model, cache, settings.new_tokens, draft)
        self.tokens_per_step = settings.new_tokens * recipe.requests
        self.due = capacity  # what `lengths` must be
        self.prepare()
        self.decoded: list[torch.Tensor] = []  # (B, new_tokens) of every step
        self.lengths: list[int] = []  # of the cache, after every step
        self.cache_bytes = 0
        self.memory = PeakMemory(device)
        self.replays = recipe.compile and device.type == "cuda"  # a CUDA graph, for each token

    @property
    def probed(self) -> Run:
        return self.run

    def clock(self) -> Clock:
        return make_clock(self.device)

    def prepare(self) -> None:
        """Read what the steps' answers begin with."""
        settings = self.settings
        read = prompts(self.held_out, self.recipe.requests, settings.prompt_tokens)
        self.prompt = read.to(self.device)
        self.begun = self.prefill()  # (B, 1): the token that each answer begins with
        self.begun_text = [*self.prompt[0].tolist(), self.begun[0].item()]  # the first request's

    @torch.no_grad()
    def prefill(self) -> torch.Tensor:
        """The prompt into the empty cache; gives the first token after it, (B, 1)."""
        self.run.cache.rollback(0)
        if self.run.draft:
            self.run.draft.begin(self.prompt[0].tolist())
        return likeliest(self.run.model(self.prompt, self.run.cache))

    def decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The new tokens, (B, new_tokens), and the logits of the last of them."""
        run, text, most = self.run, self.begun_text, self.recipe.draft_tokens
        if run.draft is None:
            return decode(run.model, run.cache, self.begun, run.new_tokens)
        spoken = speculate(run.model, run.cache, run.draft, text, run.new_tokens, most)
        run.draft.keep(len(text) - 1)
        run.rounds = spoken.rounds
        return torch.tensor([spoken.tokens]), spoken.logits

    def step(self) -> None:
        if self.replays and not self.run.operators:
            self.record()
        cache = self.run.cache
        tokens, self.last = self.decode()
        if not self.decoded:
            self.first = self.last
        self.decoded.append(tokens)
        self.lengths.append(cache.length)
        held = cache.nbytes + (self.run.draft.cache_bytes if self.run.draft else 0)
        self.cache_bytes = max(self.cache_bytes, held)
        cache.rollback(self.settings.prompt_tokens)

    @torch.no_grad()
    def record(self) -> None:
        """Which operators are in the CUDA graph that every token of every step replays.

        The first pass compiles, the second one is recorded: from the third on no operator is seen.
        """
        cache, before = self.run.cache, self.run.cache.length
        ids = torch.zeros(self.recipe.requests, 1, dtype=torch.int64, device=self.device)
        for last in (False, True):
            with profiler() if last else nullcontext() as profile:
                self.run.model(ids, cache)
            cache.rollback(before)
        each = called(profile).items()
        self.run.operators = Counter({name: n * self.run.new_tokens for name, n in each})

    def look(self) -> None:
        """One profiled step: which operators ran how often, and how many tokens ran for each."""
        give_back(self.device)
        run, cache = self.run, self.run.cache
        begin = cache.begin

        def counting(ids: torch.Tensor):
            found = begin(ids)
            run.rows.append(found[0].numel())
            return found

        def passing(model: Decoder, given: tuple) -> None:
            ids, kept = given
            run.passes.append(model)
            share = len(model.blocks) / kept.shape.layers  # of its layers, which a pass may skip
            run.read_bytes += model.read_bytes + share * kept.reads(kept.length + ids.shape[1])

        cache.begin = counting
        models = {run.model, run.draft and run.draft.model} - {None}
        hooks = [model.register_forward_pre_hook(passing) for model in models]
        with profiler() as profile:
            self.step()
        del cache.begin
        for hook in hooks:
            hook.remove()
        if not self.replays:
            run.operators = called(profile)

    def ready(self) -> None:
        self.run.graphs, self.run.graph_breaks = compiled_graphs()

    def begin(self) -> None:
        self.memory.reset()

    def end(self) -> None:
        self.peaks = self.memory.read()

    def room(self) -> tuple[float, float]:
        return room(self.device) or super().room()

    def audit(self) -> None:
        if compiled_graphs()[0] != self.run.graphs:
            raise Disturbed("the model was compiled again within the timed steps")
        if set(self.lengths) != {self.due}:
            ended = sorted(set(self.lengths))
            raise Disturbed(f"steps ended at {ended} tokens instead of {self.due}")
        refuse_other_answers(self.decoded, self.first, self.last)
        if self.run.draft:
            self.refuse_unlikely()

    @torch.no_grad()
    def refuse_unlikely(self) -> None:
        """Each token must be the likeliest by a pass of its own, but for near ties.

        Several rows may take another kernel than one, so the text need not be the same below
        float32, where a near tie may fall the other way.
        """
        ids = self.begun
        for token in self.decoded[0][0].tolist():
            logits = self.run.model(ids, self.run.cache)[0, 0].float()
            short = logits.max() - logits[token]
            if not short < NEAR * logits.square().mean().sqrt():
                raise Disturbed(f"a token was emitted whose logit is {short:.2f} below the largest")
            ids = torch.full_like(ids, token)
        self.run.cache.rollback(self.settings.prompt_tokens)

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """Times in seconds, memory in bytes or GiB, losses in nats."""
        run = self.run
        reserved, allocated = self.peaks
        return {
            "tokens_per_step": self.tokens_per_step,
            "cache_bytes": self.cache_bytes,
            "weight_bytes": run.model.weight_bytes + (run.draft.weight_bytes if run.draft else 0),
            "read_bytes": run.read_bytes / run.new_tokens,  # for a token of every request
            **self.speculation(tell),
            "peak_reserved_gib": reserved,
            "peak_allocated_gib": allocated,
            "text_sha256": self.text.sha256,
            "text_source": self.text.source,
            "weights": self.told,
            "decoded": self.decoded[0][0].tolist(),
            "ttft_s": self.time_to_first_token(tell),
            "held_out_loss": self.held_out_loss(run.model, run.cache.shape, tell),
            "control_loss": self.control_loss(tell),
            "step_s_after": self.after_other_prompts(tell),
        }

    def speculation(self, tell: Callable[[str], None]) -> dict:
        """What came of the draft, and what should have come of it by what its parts cost."""
        run, guesses = self.run, self.recipe.draft_tokens
        if run.draft is None:
            return {"acceptance": None}
        tell("the draft's cost")
        draft_cost, verify_cost = costs(run.model, run.cache, run.draft, self.begun_text, guesses)
        return {
            "acceptance": acceptance(run.rounds),
            "tokens_per_pass": run.new_tokens / len(run.rounds),
            "draft_cost": draft_cost,
            "verify_cost": verify_cost,
            "predicted_gain": predicted(run.rounds, guesses, draft_cost, verify_cost),
            "agreement": agreement(run.model, run.cache, run.draft, self.begun_text[:-1]),
        }

    def time_to_first_token(self, tell: Callable[[str], None]) -> float:
        """Seconds from a prompt to the token after it."""
        tell("prompts")
        return time_of_prompt(self.prefill, self.device)

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

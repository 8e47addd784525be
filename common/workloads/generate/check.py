"""Before a rung is timed: are its logits those of the naive model in float64?

On a small shape, at fixed tokens: greedy text is no gate below float32, where one near tie changes
all that follows. One session reads prompts one after the other, in one piece, token by token, and
in chunks, is rolled back, and fills its cache to the last slot; a rung that serves a stream serves
one. Every position's logits are compared with the naive model's, which is given each request alone.
Twice: with the naive model's own weights, to the limit of the weights' format, and with these
weights as the format rounds them, to the limit of the activations' format, where a kernel that is
wrong or a scale that is missing cannot hide behind what quantisation costs. Where heads share keys
and values, the naive model is multi-head, with a copy of these for every query head.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch

from common.engine.contract import NotEquivalent, Numerics
from common.engine.errors import out_of_memory
from common.engine.job import Against
from common.engine.workload import Check
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.workloads.generate.draft_model import smaller
from common.workloads.generate.heads import pooled, spread
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import Decoder, State, decode
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import build, kept_shape
from common.workloads.generate.speculation import Target, read, speculate
from common.workloads.generate.stream import Request, serve, stream
from common.workloads.train.build import seed_parameters
from common.workloads.train.recipe import Recipe

# widths that every group divides, a vocabulary that no kernel's multiple does, spare positions
SHAPE = Shape(layers=2, heads=8, emb_dim=128, context=32, vocab_size=1009)
CAPACITY, REQUESTS = 24, 2
PROMPT, CHUNKS, KEPT = 7, (5, 1, 3, 4), 6  # tokens
STREAM, LONGEST = 3, (9, 8)  # requests for each row; tokens of prompts and of answers
# The worst relative error of a position's logits. About ten times what a right rung showed on a
# CPU; a single key too many or too few in attention shows 1e-2 and more, in float32 as well.
LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2, "int8": 5e-2, "int4": 4e-1}
# Likewise, of a kernel for weights in fewer bits: an H200's for int8 showed 1.1e-4 above float32
KERNEL_LIMIT = 1e-3
FACTOR = 4.0  # how many times the error of the rung below, for one that only rounds

Answers = dict[str, torch.Tensor]  # logits of every position that was asked for, float64


@dataclass(frozen=True, kw_only=True)
class LogitsCheck(Check):
    """`error`: of the worst position, against the naive model's own weights."""

    rounded_error: float  # against the naive model with the weights as the format rounds them
    float32_error: float | None  # likewise, with activations in float32; None: not to be had


def check(recipe: GenerateRecipe, against: Against, device: torch.device) -> LogitsCheck:
    """Raises NotEquivalent if the recipe's logits are not those that its rung declares."""
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    kv_heads, naive = kv_heads_of(recipe), plain(against.baseline)
    rows = max(REQUESTS, recipe.requests)
    state, reference = coarse_state(kv_heads), naive_answers(naive, kv_heads, rows, exact)
    own = answers(recipe, state, device, rows)
    error, where = worst(own, reference)
    limit, claim = LIMITS[recipe.format], against.numerics
    if claim in (Numerics.EXACT, Numerics.ROUNDING):
        if kv_heads != kv_heads_of(against.below):
            raise NotEquivalent(
                f"declared {claim.value}, but keys and values have {kv_heads} heads"
            )
        if (recipe.format, recipe.dtype) != (against.below.format, against.below.dtype):
            raise NotEquivalent(
                f"declared {claim.value}, but it computes in {recipe.format}, and the rung below "
                f"in {against.below.format}"
            )
        below = answers(replace(against.below, compile=False), state, device, rows)
        if claim is Numerics.EXACT and not all(torch.equal(own[k], below[k]) for k in own):
            raise NotEquivalent("declared exact, but its logits are not those of the rung below")
        limit = min(limit, max(LIMITS["float32"], FACTOR * worst(below, reference)[0]))
    refuse(error, limit, where, f"declared {claim.value}, but in {recipe.format}")
    rounded_error, where = worst(own, alone(naive, rounded(state, recipe), exact, rows))
    dtype = str(recipe.dtype).removeprefix("torch.")
    refuse(rounded_error, LIMITS[dtype], where, f"with its own weights in {recipe.format}")
    found = LogitsCheck(
        claim=claim,
        error=error,
        where=where,
        limit=limit,
        formats=(recipe.format,),
        rounded_error=rounded_error,
        float32_error=in_float32(recipe, naive, state, device, exact, rows),
    )
    if recipe.draft is not None:
        refuse_other_text(recipe, state, device)
    more = () if found.float32_error is None else ("float32",)
    return replace(found, formats=tuple(dict.fromkeys((*found.formats, *more))))


def plain(recipe: GenerateRecipe) -> GenerateRecipe:
    """The naive recipe in float64."""
    return replace(recipe, dtype=torch.float64, compile=False)


def kv_heads_of(recipe: GenerateRecipe) -> int:
    return kept_shape(recipe, SHAPE).heads


@functools.cache
def coarse_state(kv_heads: int = SHAPE.heads) -> State:
    """Parameters that every dtype can hold, so that all start from the same ones."""
    model = GPT(SHAPE, Recipe(), SHAPE.vocab_size)
    seed_parameters(model, SHAPE)
    state = pooled(model.state_dict(), SHAPE.heads, kv_heads)
    return {name: p.bfloat16().float() for name, p in state.items()}


def rounded(state: State, recipe: GenerateRecipe) -> State:
    """The naive model's parameters: the weight matrices as the recipe's layers make them.

    No kernel runs.
    """
    matrices = {
        name
        for name, parameter in state.items()
        if parameter.dim() == 2 and "embedding" not in name
    }
    found = {
        name: recipe.linear.rounded(p, recipe).double() if name in matrices else p
        for name, p in state.items()
    }
    return spread(found, SHAPE.heads)


@functools.cache
def naive_answers(naive: GenerateRecipe, kv_heads: int, rows: int, device: torch.device) -> Answers:
    """What all with so many heads of keys and values are compared with."""
    return alone(naive, spread(coarse_state(kv_heads), SHAPE.heads), device, rows)


def made_up(seed: int, rows: int = REQUESTS) -> torch.Tensor:
    """(rows, CAPACITY) ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.vocab_size, (rows, CAPACITY), generator=generator)


@torch.no_grad()
def answers(
    recipe: GenerateRecipe, state: State, device: torch.device, rows: int = REQUESTS
) -> Answers:
    """A recipe's logits along one session, (B, positions, V) each, by what was done."""
    model, cache = build(replace(recipe, requests=rows), SHAPE, state, CAPACITY, device)
    found = walked(model, cache, *(made_up(seed, rows).to(device) for seed in range(3)))
    if recipe.schedule:
        cache.rollback(0)
        found |= served(recipe, model, cache)
    return found


@torch.no_grad()
def alone(naive: GenerateRecipe, state: State, device: torch.device, rows: int) -> Answers:
    """The same of the naive model, which never has more than one request."""
    model, cache = build(replace(naive, requests=1), SHAPE, state, CAPACITY, device)
    each, found = [], {}
    for row in range(rows):
        cache.rollback(0)
        texts = (made_up(seed, rows)[row, None].to(device) for seed in range(3))
        each.append(walked(model, cache, *texts))
    for name in each[0]:
        found[name] = torch.cat([one[name] for one in each])
    for request, ids in texts_of_a_stream(rows):
        cache.rollback(0)
        logits = model(ids[None, :-1].to(device), cache, last=request.new_tokens)
        found[said(request)] = logits.cpu().double()
    return found


def texts_of_a_stream(rows: int) -> list[tuple[Request, torch.Tensor]]:
    """Requests, each with the ids of its prompt, of the token after it, and of its whole answer."""
    requests = stream(STREAM * rows, rows, *LONGEST)
    ids = made_up(3, len(requests))
    lengths = (one.prompt_tokens + 1 + one.new_tokens for one in requests)
    return [(one, text[:length]) for one, text, length in zip(requests, ids, lengths, strict=True)]


def said(request: Request) -> str:
    return f"request {request.number} of a stream"


def served(recipe: GenerateRecipe, model: Decoder, cache) -> Answers:
    """The logits of a stream's answers, (1, new tokens, V) each, at the texts' own tokens."""
    device, texts = cache.places.device, dict(texts_of_a_stream(cache.requests))
    found: dict[Request, list[torch.Tensor]] = {request: [] for request in texts}

    def admit(request: Request, row: int) -> torch.Tensor:
        prompt = texts[request][: request.prompt_tokens].to(device)
        read = recipe.cache(cache.shape, recipe.dtype, 1, request.prompt_tokens, device)
        model(prompt[None], read)
        cache.admit(row, read)
        return texts[request][request.prompt_tokens]

    def follow(logits: torch.Tensor, busy: dict[int, Request]) -> torch.Tensor:
        ids = torch.zeros(cache.requests, 1, dtype=torch.int64)
        for row, request in busy.items():
            found[request].append(logits[row].cpu().double())
            ids[row] = texts[request][request.prompt_tokens + len(found[request])]
        return ids.to(device)

    serve(model, cache, list(texts), recipe.schedule, admit, follow)
    return {said(request): torch.cat(parts)[None] for request, parts in found.items()}


def walked(model: Decoder, cache, first, second, third) -> Answers:
    """One session, on three texts of ids (B, CAPACITY)."""

    def read(ids: torch.Tensor, begin: int, sizes) -> torch.Tensor:
        parts = []
        for size in sizes:
            found = model(ids[:, begin : begin + size], cache, last=size)
            parts.append(found.cpu().double())  # before a CUDA graph writes there again
            begin += size
        return torch.cat(parts, dim=1)

    found = {"the prompt's last position": model(first[:, :PROMPT], cache).cpu().double()}
    ones = (1,) * (CAPACITY - PROMPT)
    found["token by token to the last slot"] = read(first, PROMPT, ones)
    refuse_overflow(model, cache, first[:, :1])
    cache.rollback(0)
    found["another prompt, in chunks"] = read(second, 0, CHUNKS)
    cache.rollback(KEPT)
    found["other tokens after a rollback"] = read(third, 0, (4, 1, 1, 2))
    return found


@torch.no_grad()
def refuse_other_text(recipe: GenerateRecipe, state: State, device: torch.device) -> None:
    """With a draft, greedy text in float32 is that without one, and so is the cache behind it.

    By plain matrices: that a kernel takes several rows as it takes one was seen in the logits.
    """
    recipe = replace(recipe, dtype=torch.float32, linear=Linear, compile=False, requests=1)
    model, cache = build(recipe, SHAPE, state, SHAPE.context, device)
    target = Target(
        recipe=recipe, shape=SHAPE, model=model, cache=cache, trained=True, smaller=coarse_draft
    )
    draft, text = recipe.draft(target), made_up(0, 1)[0, :PROMPT].tolist() * 2
    begun = read(model, cache, text).argmax().item()
    count = SHAPE.context - len(text) - 1  # and a place for the last of them
    due = decode(model, cache, torch.tensor([[begun]], device=device), count)[0][0].tolist()
    after = read(model, cache, due[-1:])
    cache.rollback(len(text))
    draft.begin(text)
    found = speculate(model, cache, draft, [*text, begun], count, recipe.draft_tokens)
    if found.tokens != due:
        raise NotEquivalent("with a draft, greedy text in float32 is not what it is without one")
    error = ((read(model, cache, due[-1:]) - after).norm() / after.norm()).item()
    refuse(error, LIMITS["float32"], "behind it", "after text with a draft")


@functools.cache
def coarse_draft() -> tuple[Shape, State]:
    """A draft model's shape and parameters, untrained."""
    shape = smaller(SHAPE)
    model = GPT(shape, Recipe(), shape.vocab_size)
    seed_parameters(model, shape)
    return shape, model.state_dict()


def refuse_overflow(model: Decoder, cache, ids: torch.Tensor) -> None:
    try:
        model(ids, cache)
    except IndexError:
        return
    raise NotEquivalent(f"a cache of {CAPACITY} slots took one token more")


def worst(own: Answers, reference: Answers) -> tuple[float, str]:
    """The largest relative error of one position of one request, and where it was."""
    errors = {}
    for name, found in own.items():
        due = reference[name]
        relative = (found - due).norm(dim=-1) / due.norm(dim=-1)  # (B, positions)
        errors[name] = math.inf if relative.isnan().any() else relative.max().item()
    where = max(errors, key=errors.get)
    return errors[where], where


def refuse(error: float, limit: float, where: str, what: str) -> None:
    if error > limit:
        raise NotEquivalent(
            f"{what} the logits differ from the naive model's by {error:.1e}, where {limit:.1e} "
            f"is allowed ({where})"
        )


def in_float32(
    recipe: GenerateRecipe, naive: GenerateRecipe, state: State, device, exact, rows: int
) -> float | None:
    """The error with activations in float32, where little rounding hides a wrong key or position.

    None if a kernel takes 16 bits only.
    """
    recipe = replace(recipe, dtype=torch.float32, compile=False)
    try:
        own = answers(recipe, state, device, rows)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return None
    error, where = worst(own, alone(naive, rounded(state, recipe), exact, rows))
    kernel = device.type == "cuda" and recipe.linear.operator
    limit = KERNEL_LIMIT if kernel else LIMITS["float32"]
    refuse(error, limit, where, "with activations in float32")
    return error

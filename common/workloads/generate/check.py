"""Before a rung is timed: are its logits those of the naive model in float64?

On a small shape, at fixed tokens: greedy text is no gate below float32, where one near tie changes
all that follows. One session reads prompts one after the other, in one piece, token by token, and
in chunks, is rolled back, and fills its cache to the last slot; a rung that serves a stream serves
one. Every position's logits are compared with the naive model's, which is given each request alone.
Twice: with the naive model's own weights, to the limit of the weights' format, and with these
weights as the format rounds them, to the limit of the activations' format, where a kernel that is
wrong or a scale that is missing cannot hide behind what quantisation costs.
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
from common.workloads.generate.model import Decoder, State
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import build
from common.workloads.generate.stream import Request, serve, stream
from common.workloads.train.build import seed_parameters
from common.workloads.train.recipe import Recipe

# widths that every group divides, a vocabulary that no kernel's multiple does, spare positions
SHAPE = Shape(layers=2, heads=4, emb_dim=128, context=32, vocab_size=1009)
CAPACITY, REQUESTS = 24, 2
PROMPT, CHUNKS, KEPT = 7, (5, 1, 3, 4), 6  # tokens
STREAM, LONGEST = 3, (9, 8)  # requests for each row; tokens of prompts and of answers
# The worst relative error of a position's logits. About ten times what a right rung showed on a
# CPU; a single key too many or too few in attention shows 1e-2 and more, in float32 as well.
LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2, "int8": 5e-2, "int4": 4e-1}
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
    state, naive = coarse_state(), plain(against.baseline)
    rows = max(REQUESTS, recipe.requests)
    reference = naive_answers(naive, rows, exact)
    own = answers(recipe, state, device, rows)
    error, where = worst(own, reference)
    limit, claim = LIMITS[recipe.format], against.numerics
    if claim in (Numerics.EXACT, Numerics.ROUNDING):
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
    more = () if found.float32_error is None else ("float32",)
    return replace(found, formats=tuple(dict.fromkeys((*found.formats, *more))))


def plain(recipe: GenerateRecipe) -> GenerateRecipe:
    """The naive recipe in float64."""
    return replace(recipe, dtype=torch.float64, compile=False)


@functools.cache
def coarse_state() -> State:
    """Parameters that every dtype can hold, so that all start from the same ones."""
    model = GPT(SHAPE, Recipe(), SHAPE.vocab_size)
    seed_parameters(model, SHAPE)
    return {name: p.bfloat16().float() for name, p in model.state_dict().items()}


def rounded(state: State, recipe: GenerateRecipe) -> State:
    """The parameters with the weight matrices as the recipe's layers make them: no kernel runs."""
    matrices = {
        name
        for name, parameter in state.items()
        if parameter.dim() == 2 and "embedding" not in name
    }
    return {
        name: recipe.linear.rounded(p, recipe).double() if name in matrices else p
        for name, p in state.items()
    }


@functools.cache
def naive_answers(naive: GenerateRecipe, rows: int, device: torch.device) -> Answers:
    """What all are compared with."""
    return alone(naive, coarse_state(), device, rows)


def made_up(seed: int, rows: int = REQUESTS) -> torch.Tensor:
    """(rows, CAPACITY) ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.vocab_size, (rows, CAPACITY), generator=generator)


@torch.no_grad()
def answers(recipe: GenerateRecipe, state: State, device: torch.device, rows: int) -> Answers:
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
            parts.append(model(ids[:, begin : begin + size], cache, last=size))
            begin += size
        return torch.cat(parts, dim=1).cpu().double()

    found = {"the prompt's last position": model(first[:, :PROMPT], cache).cpu().double()}
    ones = (1,) * (CAPACITY - PROMPT)
    found["token by token to the last slot"] = read(first, PROMPT, ones)
    refuse_overflow(model, cache, first[:, :1])
    cache.rollback(0)
    found["another prompt, in chunks"] = read(second, 0, CHUNKS)
    cache.rollback(KEPT)
    found["other tokens after a rollback"] = read(third, 0, (4, 1, 1, 2))
    return found


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
    refuse(error, LIMITS["float32"], where, "with activations in float32")
    return error

"""What does the model say next? python -m common.gpt.generate --weights FILE --prompt TEXT

Streams the text as it is made, with the settings of the inference ladder that are the fastest for
one request. The text goes to stdout; how fast it was made, and what it took, to stderr.
"""

import argparse
import codecs
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace

import torch

from common.accelerator.compiler import with_compile_cache
from common.accelerator.device import describe_in_child, pick_type
from common.engine.contract import DoesNotApply
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.options import Parser, number, whole
from common.gpt.text import END_OF_TEXT, encode, tokenizer
from common.workloads.generate.base import weights_for
from common.workloads.generate.caches import Cache
from common.workloads.generate.model import Decoder, State
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.sampling import Sampler, sampler_for
from common.workloads.generate.session import build
from common.workloads.generate.settings import Settings
from common.workloads.generate.workload import BASE_STEPS, GENERATE
from common.workloads.train.options import add_model_options, base_steps, chosen
from ladders.inference import LADDER
from ladders.inference.step04_sdpa import WideAttention

# The rung with the fastest settings for one request. On a CPU compiling takes ten seconds and gains
# nothing (rung 8).
FASTEST, FASTEST_ON_CPU = 8, 7
NEW = 100  # tokens, by default
WARM_UP = 3  # passes of a token: one compiles, the next records a CUDA graph
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def temperature(text: str) -> float:
    value = number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 on; 0: the likeliest")
    return value


def make_parser() -> Parser:
    parser = Parser(prog="python -m common.gpt.generate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--prompt", default="", metavar="TEXT", help="what the text begins with; default: nothing")
    add("--max-new-tokens", type=whole(1), metavar="N", help=f"default: {NEW}, or what has room")
    chosen_by = "0, the default: the likeliest token; above: a draw, flatter the higher it is"
    add("--temperature", type=temperature, default=0.0, metavar="T", help=chosen_by)
    add("--top-k", type=whole(1), metavar="K", help="draw among the K likeliest; default: all")
    add("--seed", type=whole(0), default=0, metavar="N", help="of the draws; default: 0")
    add_model_options(parser)
    GENERATE.add_weights_options(parser.add_argument_group("weights"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        with with_compile_cache():
            say(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the text has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def say(options: Namespace) -> None:
    """Write the prompt and what follows it, and then the figures."""
    device = describe_in_child(pick_type(options.device))
    work = chosen(options, device)
    ids = encode(options.prompt) or [END_OF_TEXT]
    count = room(len(ids), options.max_new_tokens, work.shape.context)
    settings = Settings(
        shape=work.shape,
        device=device.type,
        text=options.text,
        weights=options.weights,
        base_steps=base_steps(options, BASE_STEPS.get(work.preset, 0)),
    )
    weights = weights_for(settings)
    rung, model, cache = fastest(settings, device, weights.state, len(ids) + count)
    note(f"{weights.told['source']}; as rung {rung}, {LADDER.title(rung)}")
    draws = torch.Generator().manual_seed(options.seed)
    sampler = sampler_for(options.temperature, options.top_k, draws)
    warm_up(model, cache, ids)
    stamps = [time.perf_counter()]
    write = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a letter may be many tokens
    print(options.prompt, end="", flush=True)
    for token in answer(model, cache, ids, count, sampler):
        stamps.append(time.perf_counter())
        if token != END_OF_TEXT:
            said = write.decode(tokenizer().decode_single_token_bytes(token))
            print(said, end="", flush=True)
    print(write.decode(b"", final=True), flush=True)
    note(figures(stamps, model, cache))


def room(prompt: int, wanted: int | None, context: int) -> int:
    """How many tokens to make after so many. Raises UserError where the context has no room."""
    left = context - prompt
    if left < 1:
        raise UserError(
            f"--prompt: {prompt} tokens leave no room for an answer in the context of {context}; "
            f"at most {context - 1}"
        )
    if wanted is not None and wanted > left:
        raise UserError(
            f"--max-new-tokens {wanted}: with a prompt of {prompt} longer than the context of "
            f"{context}; at most {left}"
        )
    return wanted or min(NEW, left)


def fastest(
    settings: Settings, device: DeviceFacts, state: State, capacity: int
) -> tuple[int, Decoder, Cache]:
    """The highest rung that can be built, its model, and an empty cache.

    Of a rung's candidates the first, without a race; on CPUs attention in float32 (rung 4).
    """
    top = FASTEST_ON_CPU if device.type == "cpu" else FASTEST
    rungs = LADDER.applicable(LADDER.chain(top), GenerateRecipe(), device)
    while True:
        recipe = LADDER.compose(GenerateRecipe(), rungs)
        if device.type == "cpu" and recipe.dtype.itemsize == 2:
            recipe = replace(recipe, attention=WideAttention)
        try:
            place = torch.device(device.type)
            return rungs[-1], *build(recipe, settings.shape, state, capacity, place)
        except DoesNotApply:  # a width that its groups do not divide, say
            rungs.pop()


@torch.no_grad()
def warm_up(model: Decoder, cache: Cache, ids: list[int]) -> None:
    """Compile, and let libraries make ready what they keep: figures are as the ladder's, warm."""
    given = torch.tensor([ids], device=cache.places.device)
    model(given, cache)
    for _ in range(WARM_UP):
        model(given[:, :1], cache)
        cache.rollback(len(ids))
    cache.rollback(0)


@torch.no_grad()
def answer(
    model: Decoder, cache: Cache, ids: list[int], count: int, sampler: Sampler
) -> Iterator[int]:
    """At most so many tokens after a prompt; the text's own end is the last."""
    for _ in range(count):
        logits = model(torch.tensor([ids], device=cache.places.device), cache)  # (1, 1, V)
        token, _ = sampler.pick(logits[0, -1])
        yield token
        if token == END_OF_TEXT:
            return
        ids = [token]


def figures(stamps: list[float], model: Decoder, cache: Cache) -> str:
    """The ladder's columns. `stamps`: seconds, before the prompt was read and after each token."""
    start, first, *_, last = (*stamps, stamps[-1])
    after = len(stamps) - 2  # tokens after the first
    found = {"ttft_ms": f"{1e3 * (first - start):,.1f}"}
    if after:
        each = (last - first) / after
        found |= {"ms_per_token": f"{1e3 * each:,.2f}", "tok_per_s": f"{1 / each:,.0f}"}
    found |= {"cache_bytes": f"{cache.nbytes:,}", "weight_bytes": f"{model.weight_bytes:,}"}
    return "  ".join(f"{name} {value}" for name, value in found.items())


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""What drafts bring at GPT-2 124M's shape, by the text that is written and the weights' format.

Untrained weights say nothing of what is accepted, so the text is made: head and embeddings are such
that the model writes tokens in a circle. It repeats itself, repeats itself but for one token in
eight, or never does. All products are computed as ever. A draft model and skipped layers then guess
the same circle, and are always right: theirs are upper bounds.
Run by hand: python -m tests.bench_speculation [rungs to stand on; default 5 6 7]
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch

from common.gpt.shape import Shape
from common.workloads.generate.base import untrained
from common.workloads.generate.draft_model import smaller
from common.workloads.generate.model import State, decode
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import build
from common.workloads.generate.speculation import (
    Draft,
    Target,
    acceptance,
    costs,
    predicted,
    read,
    speculate,
)
from ladders.inference import LADDER
from ladders.inference.step04_sdpa import WideAttention
from ladders.inference.step11_look_up import LookUp
from ladders.inference.step12_draft_model import Smaller
from ladders.inference.step13_skipped_layers import EarlyExit

PROMPT, NEW, TURNS = 256, 64, 3
CPU, SHAPE = torch.device("cpu"), Shape()
CIRCLE, EIGHTH = 50, 8  # tokens
STRANGE = 10_000  # the first token that is written once
TEXTS = {  # tokens of the circle, and how often a token is another one (0: never)
    "repeats itself": (CIRCLE, 0),
    "but for one in eight": (CIRCLE, EIGHTH),
    "never repeats itself": (SHAPE.vocab_size, 0),
}


def writes(shape: Shape, circle: int, odd: int) -> State:
    """Parameters of a model that writes 0, 1, 2 and so on, to the circle's end, and again.

    At every `odd`th position it writes a token that it writes nowhere else, and then goes on.
    """
    state = dict(untrained(shape).state)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape.vocab_size, shape.emb_dim, generator=generator)
    positions = torch.zeros(shape.context, shape.emb_dim)
    head = torch.zeros_like(tokens)
    head[:circle] = tokens[:circle].roll(1, dims=0)  # each token's follower is likest to it
    if odd:
        place = torch.arange(shape.context)
        strange = torch.randn(shape.context, shape.emb_dim, generator=generator)
        head[STRANGE + place] = strange
        positions[::odd] = 2 * strange[::odd]
        tokens[STRANGE + place] = tokens[(place + 1) % circle]  # followed as the one it stands for
    for name, parameter in state.items():
        if name.endswith(("out_proj.weight", "contract.weight")):
            state[name] = parameter / 100  # the blocks are computed, and hardly heard
    return state | {
        "token_embedding.weight": tokens,
        "position_embedding.weight": positions,
        "head.weight": head,
    }


@dataclass
class Side:
    """A way to decode, and what came of it."""

    name: str
    step: Callable[[], object]
    seconds: list[float]
    told: str = ""


@torch.no_grad()
def sides(recipe: GenerateRecipe, circle: int, odd: int, drafts) -> list[Side]:
    """Without a draft, and with each (draft, guesses); all with one model, and one cache."""
    model, cache = build(recipe, SHAPE, writes(SHAPE, circle, odd), PROMPT + NEW, CPU)
    little = smaller(SHAPE)
    target = Target(
        recipe=recipe,
        shape=SHAPE,
        model=model,
        cache=cache,
        trained=True,
        smaller=lambda: (little, writes(little, circle, odd)),
    )
    text = [0]
    while len(text) < PROMPT + 1:  # what it writes itself
        text.append(read(model, cache, text[-1:]).argmax().item())
    begun, found = torch.tensor([[text[-1]]]), []
    due = decode(model, cache, begun, NEW)[0][0].tolist()
    cache.rollback(PROMPT)

    def plainly() -> None:
        decode(model, cache, begun, NEW)
        cache.rollback(PROMPT)

    found.append(Side("without a draft", plainly, []))
    for kind, guesses in drafts:
        found.append(with_draft(target, kind(target), text, guesses, due))
    return found


def with_draft(target: Target, draft: Draft, text: list[int], guesses: int, due) -> Side:
    model, cache = target.model, target.cache
    draft.begin(text[:-1])
    side = Side(f"{type(draft).__name__}, {guesses} guesses", lambda: None, [])
    c, v = costs(model, cache, draft, text, guesses)

    def step() -> None:
        spoken = speculate(model, cache, draft, text, NEW, guesses)
        cache.rollback(PROMPT)
        draft.keep(PROMPT)
        right = acceptance(spoken.rounds)
        said = "the same text" if spoken.tokens == due else "ANOTHER TEXT"
        side.told = (
            f"{len(spoken.rounds):2} passes, accepted {right or 0:4.0%}, c {c:.2f}, v {v:.2f}, "
            f"predicted {predicted(spoken.rounds, guesses, c, v):.2f}, {said}"
        )

    side.step = step
    return side


def main() -> None:
    numbers = [int(number) for number in sys.argv[1:]] or [5, 6, 7]
    look_ups = [(LookUp, guesses) for guesses in (2, 4, 8)]
    bounds = [(kind, guesses) for kind in (Smaller, EarlyExit) for guesses in (2, 4)]
    for number in numbers:
        recipe = LADDER.compose(GenerateRecipe(), LADDER.chain(number))
        recipe = replace(recipe, attention=WideAttention)  # as rung 4 chooses on CPUs
        for name, (circle, odd) in TEXTS.items():
            print(f"rung {number}, {LADDER.title(number)}; text {name}", flush=True)
            found = sides(recipe, circle, odd, look_ups + bounds * (name == "repeats itself"))
            for turn in range(1 + TURNS):
                for side in found:
                    begin = time.perf_counter()
                    side.step()
                    side.seconds += [time.perf_counter() - begin] * (turn > 0)
            plain = median(found[0].seconds)
            for side in found:
                took = median(side.seconds)
                print(
                    f"  {side.name:21} {1e3 * took / NEW:6.2f} ms a token, x{plain / took:4.2f}  "
                    f"{side.told}"
                )


if __name__ == "__main__":
    main()

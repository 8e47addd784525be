"""Decoding beside others' own: transformers' generate with a static cache, torchao's int8.

Neither is a dependency: pip install transformers torchao. GPT-2 124M's shape, untrained weights,
one request. Both sides decode the same number of tokens after the same prompt, in turns. Run by
hand: python -m tests.bench_generate [prompt tokens, new tokens]
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from common.gpt.shape import Shape
from common.workloads.generate.base import untrained
from common.workloads.generate.model import decode, likeliest
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import build
from ladders.inference import LADDER

TURNS = 5
CPU = torch.device("cpu")


@torch.no_grad()
def ours(number: int, ids: torch.Tensor, new: int) -> Callable[[], None]:
    """A rung's decoding, its prompt read before."""
    recipe = LADDER.compose(GenerateRecipe(), LADDER.chain(number))
    shape = Shape()
    model, cache = build(recipe, shape, untrained(shape).state, ids.shape[1] + new, CPU)
    begun = likeliest(model(ids, cache))

    def step() -> None:
        decode(model, cache, begun, new)
        cache.rollback(ids.shape[1])

    return step


@torch.no_grad()
def theirs(ids: torch.Tensor, new: int, int8: bool) -> Callable[[], float]:
    """transformers' GPT-2 in bfloat16: seconds of `new` tokens, without those of the prompt.

    generate() reads the prompt, too; one call for one token more tells what that takes.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).to(torch.bfloat16).eval()
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
        from transformers.pytorch_utils import Conv1D

        for name, module in list(model.named_modules()):
            if isinstance(module, Conv1D):  # torchao knows nn.Linear
                linear = torch.nn.Linear(*module.weight.shape, dtype=torch.bfloat16)
                linear.weight.data, linear.bias.data = module.weight.t().contiguous(), module.bias
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, linear)
        quantize_(model, Int8WeightOnlyConfig())
    known = {"do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}

    def seconds(tokens: int) -> float:
        begin = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **known)
        return time.perf_counter() - begin

    return lambda: seconds(1 + new) - seconds(1)


def timed(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    found = step()
    return found if isinstance(found, float) else time.perf_counter() - begin


def main() -> None:
    prompt, new = map(int, sys.argv[1:3] or (256, 32))
    ids = torch.randint(Shape().vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    sides = {f"rung {n}, {LADDER.title(n)}": ours(n, ids, new) for n in (4, 5, 6)}
    if importlib.util.find_spec("transformers"):
        sides["transformers, static cache, bfloat16"] = theirs(ids, new, int8=False)
        if importlib.util.find_spec("torchao"):
            sides["the same with torchao's int8 weights"] = theirs(ids, new, int8=True)
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 + TURNS):
        for name, step in sides.items():
            seconds = timed(step)
            took[name] += [seconds] * (turn > 0)
    for name, seconds in took.items():
        print(f"{name:40} {1e3 * median(seconds) / new:7.2f} ms a token")


if __name__ == "__main__":
    main()

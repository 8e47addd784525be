"""Decoding beside others' own: transformers' generate with a static cache, torchao's int8.

Neither is a dependency: pip install transformers torchao. A GPT-2 with untrained weights on a CPU,
one request. All sides decode as many tokens after the same prompt, in turns. Run by hand:
python -m tests.bench_generate
"""

import importlib.util
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from common.gpt.shape import Shape
from common.workloads.generate.base import untrained
from common.workloads.generate.model import State, decode, likeliest
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import build
from ladders.inference import LADDER
from ladders.inference.step04_sdpa import WideAttention

OURS = (4, 5, 6, 7)  # rungs
CPU = torch.device("cpu")


@torch.no_grad()
def ours(
    number: int, shape: Shape, state: State, ids: torch.Tensor, new: int
) -> Callable[[], float]:
    """Seconds of a rung's decoding, its prompt read before. Attention as rung 4 chooses on CPUs."""
    recipe = LADDER.compose(GenerateRecipe(), LADDER.chain(number))
    recipe = replace(recipe, attention=WideAttention)
    model, cache = build(recipe, shape, state, ids.shape[1] + new, CPU)
    begun = likeliest(model(ids, cache))

    def seconds() -> float:
        begin = time.perf_counter()
        decode(model, cache, begun, new)
        took = time.perf_counter() - begin
        cache.rollback(ids.shape[1])
        return took

    return seconds


@torch.no_grad()
def theirs(shape: Shape, ids: torch.Tensor, new: int, int8: bool) -> Callable[[], float]:
    """Seconds of transformers' GPT-2 in bfloat16, without those of the prompt.

    generate() reads the prompt, too; one call for one token more tells what that takes.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=shape.layers, n_head=shape.heads, n_embd=shape.emb_dim, n_positions=shape.context
    )
    model = GPT2LMHeadModel(config).to(torch.bfloat16).eval()
    if int8:
        quantise(model)
    known = {"do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}
    known["attention_mask"] = torch.ones_like(ids)

    def seconds(tokens: int) -> float:
        begin = time.perf_counter()
        found = model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **known)
        took = time.perf_counter() - begin
        assert found.shape[1] == ids.shape[1] + tokens
        return took

    return lambda: seconds(1 + new) - seconds(1)


def quantise(model) -> None:
    """torchao's weight-only int8. It knows nn.Linear, and GPT-2 there is made of Conv1D."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = torch.nn.Linear(*module.weight.shape, dtype=torch.bfloat16)
            linear.weight.data, linear.bias.data = module.weight.t().contiguous(), module.bias
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, linear)
    quantize_(model, Int8WeightOnlyConfig())


def main() -> None:
    parser, shape = ArgumentParser(), Shape()
    for name, usual in (("prompt-tokens", 256), ("new-tokens", 32), ("turns", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name in ("layers", "heads", "emb_dim"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(shape, name))
    options = parser.parse_args()
    shape = replace(shape, layers=options.layers, heads=options.heads, emb_dim=options.emb_dim)
    new, generator = options.new_tokens, torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (1, options.prompt_tokens), generator=generator)
    state = untrained(shape).state
    sides = {f"rung {n}, {LADDER.title(n)}": ours(n, shape, state, ids, new) for n in OURS}
    if importlib.util.find_spec("transformers"):
        sides["transformers, static cache, bfloat16"] = theirs(shape, ids, new, int8=False)
        if importlib.util.find_spec("torchao"):
            sides["the same with torchao's int8 weights"] = theirs(shape, ids, new, int8=True)
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 + options.turns):
        for name, seconds in sides.items():
            took[name] += [seconds()] * (turn > 0)
    middles = {name: median(seconds) for name, seconds in took.items()}
    best = min([*middles.values()][len(OURS) :], default=min(middles.values()))
    for name, middle in middles.items():
        print(f"{name:40} {1e3 * middle / new:8.2f} ms a token  x{best / middle:.2f}")
    threads = torch.get_num_threads()
    print(f"x: over the fastest of theirs. {threads} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()

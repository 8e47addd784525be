"""What 8-bit activations bring a prompt: compress's rungs 1, 4, 6, and 7 in turns, in one process.

Untrained weights at GPT-2 124M's width, or another's: products take as long whatever the numbers.
Run by hand: python -m tests.bench_prefill [--prompt-tokens 512] [--layers 12] [--heads 12]
"""

import time
from argparse import ArgumentParser
from dataclasses import replace
from statistics import median

import torch

from common.gpt.shape import Shape
from common.gpt.text import read_text, read_tokens, split
from common.workloads.compress.base import Base
from common.workloads.compress.compressing import compressed
from common.workloads.compress.model import Cache
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.settings import Settings
from common.workloads.compress.training import started, state_of
from ladders.compress import LADDER

RUNGS, CPU = (1, 4, 6, 7), torch.device("cpu")


@torch.no_grad()
def main() -> None:
    parser, shape = ArgumentParser(), Shape()
    for name, usual in (("prompt-tokens", 512), ("turns", 7)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name in ("layers", "heads", "emb_dim"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(shape, name))
    options = parser.parse_args()
    shape = replace(shape, layers=options.layers, heads=options.heads, emb_dim=options.emb_dim)
    settings = Settings(shape=shape, device="cpu", calibration_windows=1)
    windows, _ = split(read_tokens(read_text()), shape)
    state, ids = state_of(started(shape, seed=0)), windows[0][0]
    base = Base(shape, state, windows, [ids], f"untrained, {shape}")
    prompt, took = ids[None, : options.prompt_tokens], {number: [] for number in RUNGS}
    models = {}
    for number in RUNGS:
        recipe = LADDER.compose(CompressRecipe(), LADDER.chain(number))
        models[number] = compressed(base, recipe, settings).model(recipe.dtype, CPU)
    for turn in range(2 + options.turns):
        for number, model in models.items():
            cache = Cache(model, 1, prompt.shape[1])
            begin = time.perf_counter()
            model(prompt, cache, last=1)
            took[number] += [time.perf_counter() - begin] * (turn > 1)
    foot, tokens = took[RUNGS[0]], prompt.shape[1]
    for number, seconds in took.items():
        ratios = sorted(one / other for one, other in zip(foot, seconds, strict=True))
        spread = f"x{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        middle, name = median(seconds), f"rung {number}, {LADDER.title(number)}"
        print(f"{name:40} {1e3 * middle:7.1f} ms {tokens / middle:7.0f} tok/s  {spread}")
    print(f"x: over rung {RUNGS[0]}, turn by turn: median, least, largest of {len(foot)}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {shape}")


if __name__ == "__main__":
    main()

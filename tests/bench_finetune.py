"""LoRA's updates beside full ones, and its switches, at any size: python -m tests.bench_finetune

Made-up weights: what is timed does not depend on them. Updates of both methods take turns.
"""

import argparse
import time
from statistics import median

import torch

from common.gpt.model import GPT
from common.workloads.finetune.build import make_run
from common.workloads.finetune.parts import snapshot
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.finetune.serving import Beside, MergedOverBase
from common.workloads.train.build import train_step
from common.workloads.train.presets import PRESETS
from ladders.finetune import METHODS


def seconds(work, *given) -> float:
    begun = time.perf_counter()
    work(*given)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="gpt2")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    shape, device = PRESETS[options.preset].shape, torch.device("cpu")
    ids = torch.randint(shape.vocab_size, (1, options.tokens + 1))
    weights = GPT(shape, FinetuneRecipe(), shape.vocab_size).state_dict()
    runs = {
        name: make_run(METHODS[name](FinetuneRecipe()), shape, weights, device, ids[0], 1)
        for name in ("full", "lora")
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + options.updates):
        for name, run in runs.items():
            took[name].append(seconds(train_step, run, ids[:, :-1], ids[:, 1:]))
    rates = {name: options.tokens / median(found[1:]) for name, found in took.items()}
    print(f"{torch.get_num_threads()} threads, {options.tokens} tokens: {rates}")
    print(f"LoRA over full: {rates['lora'] / rates['full']:.2f}")
    model = runs["lora"].model
    tasks = [snapshot(model), {name: part + 0.01 for name, part in snapshot(model).items()}]
    for kind in (Beside, MergedOverBase):
        serving = kind(model)
        found = [seconds(serving.put, tasks[place % 2]) for place in range(9)]
        print(f"{kind.__name__}: a switch takes {1e3 * median(found[1:]):.1f} ms")


if __name__ == "__main__":
    main()

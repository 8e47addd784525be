"""What the device can do at best: matrix products in the model's own shapes, and copies."""

import time
from collections.abc import Callable
from statistics import median

import torch

from common.accelerator.device import describe, synchronize
from common.engine.device import GIB
from common.gpt.shape import Shape
from common.workloads.train.build import padded_vocab_size
from common.workloads.train.recipe import Recipe

COPY_BYTES = GIB // 4  # far above any cache
REPEATS = 5


def formats_of(device: torch.device) -> list[str]:
    """The number formats that the device multiplies in its own hardware."""
    facts, found = describe(device.type), ["float32"]
    if facts.vendor == "nvidia" and facts.capability >= (8, 0):
        found.append("tf32")
    return [*found, "bfloat16"] if facts.native_bf16 else found


def measure_ceilings(recipe: Recipe, shape: Shape, device: torch.device) -> dict[str, float]:
    """FLOP/s of the fastest of the model's products per format, and bytes/s of a copy.

    Keys: the formats ("float32", "tf32", "bfloat16") and "copy". A copy counts bytes read and
    bytes written.
    """
    rows = recipe.batch_size * shape.context
    width, vocab = shape.emb_dim, padded_vocab_size(recipe, shape)
    products = [(width, width), (width, 4 * width), (4 * width, width), (width, vocab)]
    found = {}
    for name in formats_of(device):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        rates = []
        for inner, outer in products:
            left = torch.randn(rows, inner, device=device).to(dtype)  # zeros can run faster
            right = torch.randn(inner, outer, device=device).to(dtype)
            seconds = seconds_of(lambda a=left, b=right: a @ b, device)
            rates.append(2 * rows * inner * outer / seconds)
        found[name] = max(rates)
    source = torch.randn(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * COPY_BYTES / seconds_of(lambda: target.copy_(source), device)
    return found


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call, from blocks of calls that last at least 20 ms each."""
    work()  # warm-up
    calls, blocks = 1, []
    while len(blocks) < REPEATS:
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        elapsed = time.perf_counter() - begin
        if elapsed < 0.02 and calls < 10_000:
            calls *= 4
            continue
        blocks.append(elapsed / calls)
    return median(blocks)

"""14. Batching.

Changes: eight requests are decoded side by side. On a CPU the weights' format is chosen again, of
rungs 5 to 7: the fastest kernel for one row need not be so for eight.
Why faster: a pass reads the weights once, for eight tokens instead of one.
Cost: latency. A pass takes longer, and each request waits for all of it: look at the time of each
token, and of the first, before which eight prompts are read. Eight times the cache.
When not: if one reader waits and nobody else asks. More than eight requests give still more tokens
per second, and each of them later.
Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, arXiv:2211.05102.
Expected: 3.4 times the tokens per second on a CPU, each 2.4 times as late; nearly 8 times on a GPU.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.generate.linears import Linear
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run, kernel_calls
from ladders.inference.step05_packed_weights import Packed
from ladders.inference.step06_int8_weights import Int8
from ladders.inference.step07_int4_weights import GROUPS, Int4

CHANGES = ("requests", "linear", "group")
NUMERICS = Numerics.LOWER_PRECISION
BASE = 8
REQUESTS = 8


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if set(run.rows) != {REQUESTS}:
        raise NotInEffect(f"{sorted(set(run.rows))} tokens ran in a pass, instead of {REQUESTS}")
    called, due = kernel_calls(run)
    if run.recipe.linear is not Linear and called != due:
        raise NotInEffect(f"{called} of {due} products took the {run.recipe.format} kernel")
    return f"{REQUESTS} rows, {run.recipe.format}"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, requests=REQUESTS)


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    """A CPU's kernels, of which each is the fastest at another number of rows."""
    if device.type != "cpu" or recipe.dtype.itemsize != 2:
        return {}
    batched, group = apply(recipe), recipe.group or GROUPS[0]
    return {
        "int4": replace(batched, linear=Int4, group=group),
        "int8": replace(batched, linear=Int8, group=0),
        "packed bfloat16": replace(batched, linear=Packed, group=0),
    }

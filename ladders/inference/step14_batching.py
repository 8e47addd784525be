"""14. Batching.

Changes: eight requests are decoded side by side. On a CPU packed bfloat16 is tried beside the
format below, as the fastest kernel for one row need not be so for eight. Neither is compiled there:
that gains nothing on a CPU, and packed weights cannot be.
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
from ladders.inference import step05_packed_weights, step08_compiled_step
from ladders.inference.step02_preallocated_cache import Preallocated
from ladders.inference.step05_packed_weights import Packed

CHANGES = ("requests", "linear", "group", "cache", "compile", "compile_mode")
NUMERICS = Numerics.LOWER_PRECISION
BASE = 8
REQUESTS = 8


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if any(rows % REQUESTS for rows in run.rows):
        raise NotInEffect(f"{run.rows[0]} tokens ran in a pass, instead of {REQUESTS}")
    if run.recipe.compile:
        step08_compiled_step.in_effect(run)
    called, due = kernel_calls(run)
    if run.recipe.linear is not Linear and called != due:
        raise NotInEffect(f"{called} of {due} products took the {run.recipe.format} kernel")
    return f"{REQUESTS} rows, {run.recipe.format}"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, requests=REQUESTS)


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    """Packed bfloat16, the faster kernel from some rows on, and the format below."""
    if step05_packed_weights.applies(device, recipe):
        return {}
    eager = replace(recipe, cache=Preallocated, compile=False, compile_mode="default")
    packed = replace(eager, linear=Packed, group=0)
    return {"bfloat16": apply(packed), recipe.format: apply(eager)}

"""10. Multi-query attention.

Changes: all query heads share one head of keys and values, pooled and trained as in rung 9.
Why faster: the cache is 2 L T C / H numbers a request instead of 2 L T C: for GPT-2 124M at 1,024
tokens in bfloat16 3 MiB, not 36.
Cost: the loss, more than rung 9's: look at it beside the multi-head model's, trained as long.
When not: where rung 9 has made the cache small beside the weights already; with tensor parallelism,
where each device needs a head, and the single one is copied to all.
Source: Shazeer 2019, Fast Transformer Decoding, arXiv:1911.02150.
Expected: little over rung 9 at one request; with many requests or long prompts more.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run
from ladders.inference import step09_grouped_queries as grouped
from ladders.inference.step09_grouped_queries import CHANGES, NUMERICS, applies

__all__ = ["CHANGES", "NUMERICS", "applies", "apply", "in_effect"]


def in_effect(run: Run) -> str:
    seen = grouped.in_effect(run)
    if run.cache.shape.heads != 1:
        raise NotInEffect(f"keys and values have {run.cache.shape.heads} heads")
    return seen


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    """Read as rung 9 found best, where it was measured."""
    known = issubclass(recipe.attention, grouped.Grouped)
    return replace(recipe, attention=recipe.attention if known else grouped.Folded, heads_per_kv=0)

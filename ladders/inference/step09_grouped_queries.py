"""9. Grouped-query attention.

Changes: 2 or 4 query heads (tried) share a head of keys and values. The base model's are averaged
within each group, then all is trained a little. A group's queries are rows of one product.
Why faster: a half or a quarter of the cache is kept, and read once for all rows. Otherwise every
query head reads it for itself: with `enable_gqa` (tried), or after a copy for each (tried).
Cost: another model. Its held-out loss stands beside that of the multi-head model trained as long.
When not: if the cache is small beside the weights, as at short prompts of one request.
Source: Ainslie et al. 2023, GQA, arXiv:2305.13245; Touvron et al. 2023, Llama 2, arXiv:2307.09288
(8 heads of keys and values for 64: an eighth of the cache).
Expected: nothing at a short prompt. At 1,024 tokens attention takes 1.6 to 2.8 times less on a CPU,
and 7 times less than with repeated keys and values in bfloat16.
"""

from dataclasses import replace

from torch.nn import functional as F

from common.engine.contract import DoesNotApply, NotInEffect, Numerics
from common.workloads.generate.heads import Sharing, repeated
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.generate.session import Run
from ladders.inference import step04_sdpa as fused

CHANGES = ("attention", "heads_per_kv")
NUMERICS = Numerics.DIFFERENT_WORK


class Grouped(Sharing):
    @classmethod
    def kv_heads(cls, heads: int, recipe: GenerateRecipe) -> int:
        size = recipe.heads_per_kv or heads
        if heads % size or size == recipe.heads_per_kv == heads:
            raise DoesNotApply(f"{heads} query heads are not several groups of {size}")
        return heads // size


class Repeated(Grouped, fused.WideAttention):
    def attend(self, query, key, value, seen):
        return super().attend(*repeated(query, key, value), seen)


class Native(Grouped, fused.WideAttention):
    """torch's own way."""

    enable_gqa = True


class Folded(Grouped, fused.FusedAttention):
    """A group's queries as rows over one head of keys and values; a whole prompt's are enough."""

    def attend(self, query, key, value, seen):
        if query.shape[-2] == key.shape[-2] > 1:
            return super().attend(*repeated(query, key, value), seen)
        size = query.shape[1] // key.shape[1]
        rows = query.unflatten(1, (-1, size)).flatten(2, 3)  # (B, H, n, D) -> (B, K, G n, D)
        mask = None if seen is None else seen.tile((size, 1))  # (G n, t)
        context = F.scaled_dot_product_attention(rows, key, value, mask)
        return context.unflatten(2, (size, -1)).flatten(1, 2)  # (B, K, G n, D) -> (B, H, n, D)


CHOICES = {
    "2 a group": (Folded, 2),
    "4 a group": (Folded, 4),
    "2 a group, enable_gqa": (Native, 2),
    "2 a group, repeated": (Repeated, 2),
}


def applies(device, recipe: GenerateRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    fused.in_effect(run)
    heads = run.cache.shape.heads
    if heads == run.shape.heads:
        raise NotInEffect(f"all {heads} query heads have keys and values of their own")
    return f"{heads} of {run.shape.heads} heads, {run.recipe.attention.__name__.lower()}"


def apply(recipe: GenerateRecipe) -> GenerateRecipe:
    return replace(recipe, attention=Folded, heads_per_kv=2)


def candidates(device, recipe: GenerateRecipe) -> dict[str, GenerateRecipe]:
    return {
        label: replace(recipe, attention=kind, heads_per_kv=size)
        for label, (kind, size) in CHOICES.items()
    }

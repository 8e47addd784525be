"""5. Narrow heads only.

A rung of the tests: attention that refuses wide heads when it is built, as only a child can tell.
A module of its own, since it is by the module that the child tells which rung refused.
"""

from dataclasses import replace

from common.engine.contract import DoesNotApply, Numerics
from common.workloads.train.recipe import Recipe
from ladders.beyond.step04_fused_qkv import FusedProjection

CHANGES = ("attention",)
NUMERICS = Numerics.EXACT
WIDEST = 32  # columns of a head


class NarrowOnly(FusedProjection):
    """The same attention."""

    def __init__(self, emb_dim: int, heads: int, *arguments) -> None:
        super().__init__(emb_dim, heads, *arguments)
        if emb_dim // heads > WIDEST:
            raise DoesNotApply(f"heads have {emb_dim // heads} columns, more than {WIDEST}")


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run) -> str:
    return "narrow"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, attention=NarrowOnly)

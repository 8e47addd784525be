"""8. Padded embedding and head.

Changes: heads with over a thousand rows, and embeddings tied to them, get rows of zeros up to a
multiple of 64. The columns that come of them are cut off before your loss sees them.
Why faster: kernels for matrix products work in tiles. With an odd number of rows they fall back to
slower ones, or load and store element by element.
Cost: up to 63 rows; a checkpoint has another shape. Cutting off makes the logits not contiguous:
a loss that flattens them copies them. A model that is built with the padded size saves that copy.
When not: if the number of rows is a multiple of 64 already.
Source: NVIDIA, Deep Learning Performance, matrix multiplication: requirements to use tensor cores.
Expected: 1.08 times on an H200 for GPT-2's 50,257 rows, less with the copy; nothing on a CPU.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.change import MULTIPLE
from common.workloads.own.recipe import OwnRecipe

CHANGES = ("vocab_multiple",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    if not recipe.about.padded:
        return f"no head has over a thousand rows that are no multiple of {MULTIPLE}"
    return None


def in_effect(run: Run) -> str:
    rows = [len(run.model.get_submodule(name).weight) for name in run.recipe.about.padded]
    if any(count % MULTIPLE for count in rows):
        raise NotInEffect(f"heads of {', '.join(map(str, rows))} rows")
    return f"{rows[0]:,} rows"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, vocab_multiple=MULTIPLE)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    names = ", ".join(recipe.about.padded)
    return [f"vocab_size = 64 * math.ceil(vocab_size / 64)  # of {names}"]

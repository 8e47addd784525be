"""11. Mixed precision.

Changes: each matrix gets a format of its own, bfloat16, int8, or int4, so that the file keeps to a
budget of bytes (--budget-bytes; by default a sixth of float32's). What each matrix in each format
does to the loss is measured on the calibration text, one at a time, and the choice with the least
sum of these is found exactly: a knapsack with one item of each class.
Why smaller: bits are spent where the loss feels them.
Cost: a measurement for each matrix and format. That changes of the loss add up is an assumption:
the mix is measured as well, and both figures are in the table.
When not: where one format for all is good enough, and easier to serve.
Source: Wang et al. 2019, HAQ, arXiv:1811.08886; Frantar, Alistarh 2022, SPDY, arXiv:2203.16266.
Expected: no more loss than rung 8, at the same bytes or a few more.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.compress import sensitivity
from common.workloads.compress.choices import Everything
from common.workloads.compress.formats import Plain
from common.workloads.compress.integers import Int4
from common.workloads.compress.knapsack import cheapest
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import Run
from ladders.compress.step02_int8_per_tensor import products
from ladders.compress.step04_int8_per_channel import PerChannel

CHANGES = ("choice", "format")
NUMERICS = Numerics.LOWER_PRECISION
BASE = 8
FORMATS = {
    "bfloat16": lambda recipe: replace(recipe, format=Plain),
    "int8": lambda recipe: replace(recipe, format=PerChannel),
    "int4": lambda recipe: replace(recipe, format=Int4),
}


class Mixed(Everything):
    @staticmethod
    def recipes(parts, recipe, base, settings, told):
        formats = {label: make(recipe) for label, make in FORMATS.items()}
        budget = sensitivity.budget_of(parts, recipe, settings)
        room = sensitivity.room_for_matrices(parts, formats["int4"], budget)
        options = sensitivity.options_of(parts, formats, base)
        labels = cheapest(options, room)
        chosen = {name: formats[label] for name, label in labels.items()}
        told["budget_bytes"] = budget
        told["predicted_delta"] = sum(options[name][label][1] for name, label in labels.items())
        told["mixed_delta"] = sensitivity.change_of_mix(parts, chosen, base)
        return chosen


def applies(device, recipe: CompressRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    size, budget = run.compressed.file_bytes, run.told["budget_bytes"]
    if size > budget:
        raise NotInEffect(f"the file has {size:,} bytes, and the budget was {budget:,}")
    return f"{size / budget:.1%} of the budget, {products(run, 'int8 and int4')}"


def apply(recipe: CompressRecipe) -> CompressRecipe:
    return replace(recipe, choice=Mixed, format=Plain)  # none is for all

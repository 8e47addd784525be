"""1. Tokenised once.

Changes: every document is tokenised before training begins, and its ids are kept in a list.
Why faster: a tokenizer's work is the same in every epoch, so once is enough.
Cost: seconds before the first batch, minutes or hours for a corpus; and memory: a list of Python
numbers takes 8 bytes an id, and 28 more for each that is above 256.
When not: if a text is read once only.
Source: docs.pytorch.org/docs/stable/data.html; sys.getsizeof.
Expected: loading is faster. Training is hardly, unless the device is fast or the texts are long.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.batches.recipe import FedRecipe
from common.workloads.batches.sources import InLists
from common.workloads.train.build import Run

CHANGES = ("source",)
NUMERICS = Numerics.EXACT


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if run.feed.encoded:
        raise NotInEffect(f"{run.feed.encoded} texts were tokenised in the second epoch")
    return "no text tokenised"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, source=InLists)

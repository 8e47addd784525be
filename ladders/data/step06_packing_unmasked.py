"""6. Packing without a mask.

Changes: as rung 5, on rung 4, but documents that share a row see those before them, and positions
run through.
Why faster: the kernel needs no mask. Pretraining has long been done so.
Cost: a document is trained on with strangers before it, which it never has when the model is used.
The check holds its loss only, to a tenth: gradients are those of other contexts.
When not: in finetuning, where answers are short and neighbours many. The rungs above stand on 5.
Source: Radford et al. 2019 (documents one after the other); huggingface/trl issue 784.
Expected: a few per cent over rung 5, on GPUs more, where masks keep out the fastest kernels.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.gpt.model import GPT
from common.workloads.batches.plans import Packed
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.build import Run

CHANGES = ("plan",)
NUMERICS = Numerics.DIFFERENT_WORK
BASE = 4


def applies(device, recipe: FedRecipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    rows, documents = run.feed.last.inputs.shape[0], len(run.feed.last.documents)
    if type(run.inner) is not GPT or documents <= rows:
        raise NotInEffect(f"{documents} documents in {rows} rows")
    return f"{documents} documents in {rows} rows"


def apply(recipe: FedRecipe) -> FedRecipe:
    return replace(recipe, plan=Packed)

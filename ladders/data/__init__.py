"""The data ladder: documents of uneven length, and a device that does not wait for them."""

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.batches.recipe import FedRecipe
from common.workloads.batches.workload import BATCHES
from ladders.data import (
    step01_pretokenised,
    step02_memory_mapped,
    step03_dynamic_padding,
    step04_bucketing,
    step05_packing,
    step06_packing_unmasked,
    step07_kept_samples,
    step08_workers,
    step09_persistent_workers,
    step10_prefetch_factor,
    step11_pinned_memory,
    step12_prefetch_to_device,
)
from steps import LADDER as STEPS

# of the steps: what makes a step faster and leaves shapes free; compiled, each width is a graph
AT_THE_FOOT = (1, 2, 3, 5, 6, 7)


def foot(recipe: FedRecipe, device) -> FedRecipe:
    """Each text tokenised when it is needed, rows as long as the context, one process."""
    return STEPS.compose(recipe, STEPS.applicable(AT_THE_FOOT, recipe, device))


LADDER = Ladder(
    name="ladders.data",
    workload=BATCHES,
    foot=foot,
    start="tokenised each time",
    purpose=Purpose(
        name={"en": "Data", "ja": "データ"},
        about={
            "en": "Tokens of documents trained on in a second, without padding.",
            "ja": "1 秒あたりに学習した文書のトークン数（パディングを除く）。",
        },
    ),
    note="real tok/s: tokens of documents, without padding; a step is an epoch",
    modules=(
        step01_pretokenised,
        step02_memory_mapped,
        step03_dynamic_padding,
        step04_bucketing,
        step05_packing,
        step06_packing_unmasked,
        step07_kept_samples,
        step08_workers,
        step09_persistent_workers,
        step10_prefetch_factor,
        step11_pinned_memory,
        step12_prefetch_to_device,
    ),
)

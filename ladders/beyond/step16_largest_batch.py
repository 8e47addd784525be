"""16. Largest batch.

Changes: the batch is doubled until memory ends, as at step 10, now that a window needs less of it.
Why faster: larger products use a GPU better, and what a step costs once is shared by more tokens.
Cost: other training: fewer updates per token. Compare losses by tokens seen, not by steps.
When not: on CPUs, where step 10 found no gain.
Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, arXiv:1812.06162.
Expected: 4 to 12 % on an H100.
"""

from common.workloads.train.recipe import Recipe
from steps import step10_largest_batch
from steps.step10_largest_batch import CHANGES, NUMERICS, apply, in_effect

__all__ = ["CHANGES", "NUMERICS", "applies", "apply", "in_effect"]


def applies(device, recipe: Recipe) -> str | None:
    if device.type == "cpu":
        return "a CPU is as busy at the workload's own batch (step 10)"
    return step10_largest_batch.applies(device, recipe)

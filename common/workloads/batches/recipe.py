"""How a model is fed: the fields of a recipe that only the ladder `data` changes."""

from dataclasses import dataclass, fields

from common.workloads.batches.feed import AsIs, Direct, FixedLength
from common.workloads.batches.plans import Shuffled
from common.workloads.batches.sources import Tokenised
from common.workloads.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class FedRecipe(Recipe):
    """Fields beside `Recipe`'s; `batch_size` is rows in a batch."""

    source: type = Tokenised  # where a document's tokens come from, built as source(documents)
    layout: type = FixedLength  # how wide a batch is
    plan: type[Shuffled] = Shuffled  # which documents stand in which row of which batch
    sample: type = AsIs  # what is made of a document beside its inputs
    keep_samples: bool = False  # once made, in memory
    workers: int = 0  # processes that make batches; 0: the one that trains makes them
    most_workers: int = 1  # that there may be; only rungs that start them read it
    persistent_workers: bool = False  # they live on after an epoch
    prefetch_factor: int = 2  # batches that each worker makes ahead; 2 is torch's default
    transfer: type = Direct  # when a batch is copied to the device: transfer(batches, device)

    @classmethod
    def of(cls, recipe: Recipe, **changes) -> "FedRecipe":
        """A recipe with this class's fields beside its own."""
        values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
        return cls(**values | changes)

"""How fast a loss falls: the field of a recipe that only the ladder `convergence` changes."""

from dataclasses import dataclass, fields

from common.workloads.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvergenceRecipe(Recipe):
    """A field beside `Recipe`'s."""

    learning_rates: tuple[float, ...] = ()  # of which the best is to be found; empty: it was

    @classmethod
    def of(cls, recipe: Recipe, **changes) -> "ConvergenceRecipe":
        """A recipe with this class's field beside its own."""
        values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
        return cls(**values | changes)

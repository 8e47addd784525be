"""A recipe says how a model is adapted to a text. A rung of the ladder `finetune` changes it."""

from dataclasses import dataclass, fields, replace

from torch import nn

from common.gpt.model import CausalAttention
from common.workloads.finetune.parts import NOTHING, Adapted, Part
from common.workloads.finetune.serving import Beside
from common.workloads.generate.base import FastAttention, TanhGELU
from common.workloads.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRecipe(Recipe):
    """Fields beside `Recipe`'s, some of which have the base model's own values here."""

    norm: type[nn.Module] = nn.LayerNorm
    activation: type[nn.Module] = TanhGELU
    attention: type[CausalAttention] = FastAttention
    model: type[Adapted] = Adapted
    fused_optimizer: bool = True
    dropout: float = 0.0
    weight_decay: float = 0.0  # it would draw parts of few parameters to 0
    trains: str = NOTHING  # or EVERYTHING, or the PARTS that the base has not
    part: type[Part] = Part  # what stands around each target
    targets: tuple[str, ...] = ()  # linear layers, by the last part of their names
    rank: int = 8  # of a product of two matrices in a part's place
    alpha: float = 16.0  # that product is multiplied by alpha / rank
    serving: type[Beside] = Beside  # how a task's parts are put into the model

    @classmethod
    def of(cls, recipe: Recipe, **changes) -> "FinetuneRecipe":
        """A recipe with this class's fields beside its own."""
        values = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
        return cls(**values | changes)


def at_rates(recipe: FinetuneRecipe, *rates: float) -> dict[str, FinetuneRecipe]:
    """Candidates: the same at each learning rate, by label."""
    return {f"{rate:g}": replace(recipe, learning_rate=rate) for rate in rates}

"""A model with new parts in it, and the base's own parameters under the names they always had.

Shapes: B batch, T tokens, C model width; of a linear layer K inputs, N outputs; r rank.
"""

import torch
from torch import nn

from common.engine.errors import UserError
from common.gpt.model import GPT, Linear

State = dict[str, torch.Tensor]  # by name
ATTENTION = ("W_query", "W_key", "W_value", "out_proj")
FEED_FORWARD = ("expand", "contract")
NOTHING, EVERYTHING, PARTS = "nothing", "everything", "parts"  # what a recipe trains
EVERY_LINEAR = (*ATTENTION, *FEED_FORWARD)  # of a block


class Part(Linear):
    """A linear layer of the base, and what stands beside it: here nothing."""

    NEW: tuple[str, ...] = ()  # parameters that the base has not

    def __init__(self, linear: nn.Linear, recipe) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight of its own
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def begin(self, generator: torch.Generator) -> None:
        """Give the new parameters the values with which the layer is still the base's."""


class Mergeable(Part):
    """A part that comes to a weight matrix of the base's shape."""

    def base_weight(self) -> torch.Tensor:
        """The base's own matrix, (N, K), in the format that is multiplied in."""
        return self.weight

    def room(self) -> torch.Tensor:
        """Memory for a matrix of that shape and format."""
        return torch.empty_like(self.base_weight())

    def merge_into(self, weight: torch.Tensor) -> None:
        """Write that matrix over `weight`, (N, K)."""
        raise NotImplementedError


class Adapted(GPT):
    """A GPT whose target layers `install` gives the recipe's parts."""

    before: int = 0  # tokens that its start is as if the base had read before each window

    def begin(self, generator: torch.Generator, ids: torch.Tensor) -> None:
        """Start the new parameters; `ids` (before,) is what the base would have read."""
        for module in self.modules():
            if isinstance(module, Part):
                module.begin(generator)


def install(model: Adapted, recipe) -> None:
    """Put the recipe's parts around its targets, and say which parameters are trained.

    Raises UserError for a rank or a target that the model cannot have.
    """
    refuse_rank(recipe.rank, model.token_embedding.embedding_dim)
    layers = {k: m for k, m in model.named_modules() if isinstance(m, nn.Linear)}
    there = {name.rpartition(".")[2] for name in layers}
    if missing := [target for target in recipe.targets if target not in there]:
        raise UserError(
            f"--targets {missing[0]}: no layer of the model; allowed: {', '.join(EVERY_LINEAR)}"
        )
    for name, linear in layers.items():
        if name.rpartition(".")[2] in recipe.targets:
            put(model, name, recipe.part(linear, recipe))
    new = new_names(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            {NOTHING: False, EVERYTHING: True, PARTS: name in new}[recipe.trains]
        )


def refuse_rank(rank: int, width: int) -> None:
    """Raises UserError where a product of that rank is none, or no smaller than the matrix."""
    if not 1 <= rank <= width:
        raise UserError(f"--rank {rank}: must be from 1 to the model's width, {width}")


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of that name."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def new_names(model: nn.Module) -> set[str]:
    """Of the parameters that the base has not."""
    return {
        f"{name}.{own}".removeprefix(".")
        for name, module in model.named_modules()
        for own in getattr(module, "NEW", ())
    }


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def frozen(model: nn.Module) -> State:
    """All that is not trained, buffers too."""
    moving = trained(model)
    return {name: t for name, t in model.state_dict().items() if name not in moving}


def snapshot(model: nn.Module) -> State:
    """What was trained, as it is now: what has to be stored for a task."""
    return {name: p.detach().clone() for name, p in trained(model).items()}


@torch.no_grad()
def load_parts(own: dict[str, nn.Parameter], task: State) -> None:
    """Give a model's parts, by name, a task's values.

    Raises UserError where they are not for each other: nothing is loaded by half, or into nothing.
    """
    if task and not own:
        raise UserError(
            "the weights are merged, and there are no parts left to swap: load the base again"
        )
    if odd := sorted(own.keys() ^ task.keys()):
        whose = "the model" if odd[0] in own else "what is loaded"
        raise UserError(f"parts for other layers: only {whose} has {odd[0]}")
    for name, parameter in own.items():
        if parameter.shape != task[name].shape:
            theirs, wanted = (" x ".join(map(str, t.shape)) for t in (task[name], parameter))
            raise UserError(f"parts of another shape: {name} is {theirs}, and {wanted} is needed")
    for name, parameter in own.items():
        parameter.copy_(task[name])

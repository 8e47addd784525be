"""How a task's trained parts are put into the model that answers, and what another task costs."""

import torch
from torch import nn

from common.engine.errors import UserError
from common.gpt.model import Linear
from common.workloads.finetune.parts import Mergeable, State, load_parts, put, trained


def nbytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


class Beside:
    """The model answers as it was trained: parts stay beside the layers, and are overwritten."""

    switches: bool = True  # whether another task can be put in its place

    def __init__(self, model: nn.Module) -> None:
        """It owns the model from now on. Raises UserError where its parts cannot be so served."""
        self.model = model

    def put(self, task: State) -> None:
        """Have the model answer for that task."""
        load_parts(trained(self.model), task)

    def stored(self, task: State) -> int:
        """Bytes that have to be kept for each task."""
        return nbytes(task)


class Merged(Beside):
    """Parts are added to the weights, once: then the model is the base's own, and as fast."""

    switches = False

    @torch.no_grad()
    def put(self, task: State) -> None:
        """Raises UserError the second time: a merged model has no parts left."""
        super().put(task)
        for name, part in mergeable(self.model).items():
            weight = part.room()
            part.merge_into(weight)
            put(self.model, name, plain(part, weight))

    def stored(self, task: State) -> int:
        return nbytes(self.model.state_dict())


class MergedOverBase(Beside):
    """Merged, with the base's weights and the parts kept beside: another task starts from those."""

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.parts = mergeable(model)
        self.weights = {name: part.room() for name, part in self.parts.items()}
        self.own = {f"{k}.{new}": getattr(p, new) for k, p in self.parts.items() for new in p.NEW}
        for name, part in self.parts.items():
            put(model, name, plain(part, self.weights[name]))

    @torch.no_grad()
    def put(self, task: State) -> None:
        """From the base's weights each time: to subtract what was added would leave rounding."""
        load_parts(self.own, task)
        for name, part in self.parts.items():
            part.merge_into(self.weights[name])


def mergeable(model: nn.Module) -> dict[str, Mergeable]:
    """By name. Raises UserError where there is none."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, Mergeable)}
    if not found:
        raise UserError("--merge: nothing in the model comes to a weight matrix; LoRA does")
    return found


def plain(part: Mergeable, weight: torch.Tensor) -> Linear:
    """A linear layer with that weight, (N, K), and the part's bias; it shares both."""
    with torch.device("meta"):
        linear = Linear(part.in_features, part.out_features, bias=part.bias is not None)
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), part.bias
    return linear

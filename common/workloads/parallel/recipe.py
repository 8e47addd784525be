"""A recipe for several processes: how they share the work of one step.

The processes stand in a mesh of three axes: `stages` hold different layers, `data` replicas train
on different windows, `tensor` processes share every matrix product. An axis of 1 is not there.
"""

from contextlib import nullcontext
from dataclasses import dataclass, fields

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from common.workloads.train.recipe import Recipe

AXES = ("stages", "data", "tensor")  # the order of the mesh: neighbours share products


class Replicas:
    """How replicas of the model keep together. This one is alone and has nothing to do."""

    @staticmethod
    def wrap(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        """The model, made to train together with its replicas along the mesh's "data" axis."""
        return model

    @staticmethod
    def sync(model: nn.Module, last: bool):
        """The context in which a micro-batch's gradients are made; `last` of the step or not."""
        return nullcontext()


class WholeProducts:
    """How processes share a matrix product. This one does not."""

    @staticmethod
    def wrap(model: nn.Module, mesh: DeviceMesh) -> None:
        """Cut the model's parameters, in place, along the mesh's "tensor" axis."""

    @staticmethod
    def loss():
        """The context in which the loss is taken and followed back."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelRecipe(Recipe):
    """Fields beside `Recipe`'s; `devices` is how many processes there may be."""

    stages: int = 1  # processes one after the other, each with some of the layers
    data: int = 1  # replicas, each with its own windows
    tensor: int = 1  # processes that share every matrix product
    replicas: type[Replicas] = Replicas
    products: type[WholeProducts] = WholeProducts
    pipeline: type | None = None  # step08's GPipe, or another schedule
    accumulate: int = 1  # batches between two updates

    @classmethod
    def of(cls, recipe: Recipe, **changes) -> "ParallelRecipe":
        """A recipe with this class's fields beside its own."""
        values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
        return cls(**values | changes)

    @property
    def processes(self) -> int:
        return self.stages * self.data * self.tensor

    @property
    def windows(self) -> int:
        """Windows a replica sees between two updates: `batch_size` for each of its processes."""
        return self.batch_size * self.stages * self.tensor * self.accumulate

    @property
    def micro_batches(self) -> int:
        """The parts that a replica's windows are cut into, one after the other."""
        if self.pipeline is None:
            return self.accumulate
        most = 4 * self.stages  # then the bubble is under a fifth
        return max(n for n in range(1, most + 1) if self.windows % n == 0)

"""A parallel recipe, built: this process's part of the model, and one training step of all."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from common.engine.contract import DoesNotApply
from common.gpt.shape import Shape
from common.workloads.parallel.recipe import AXES, ParallelRecipe
from common.workloads.train.batches import to_device
from common.workloads.train.build import Run, build, seed_dropout


@dataclass(slots=True)
class ParallelRun(Run):
    """A built recipe, as this process sees it. Probes look at it."""

    mesh: DeviceMesh | None = None
    schedule: object = None  # of torch.distributed.pipelining, where there are stages
    stage: object = None  # this process's, of the schedule
    loss: Callable | None = None  # of the schedule's last stage
    whole_elements: int = 0  # of all parameters, before any was cut
    calls: dict[str, int] = field(default_factory=dict)  # of operators, in one profiled step
    sent: dict[str, int] = field(default_factory=dict)  # bytes in that step, by collective
    memory: dict[str, int] = field(default_factory=dict)  # bytes in this process, by what for

    def place(self, axis: str) -> int:
        """Where on an axis of the mesh this process stands."""
        return self.mesh.get_local_rank(axis)


def refuse(recipe: ParallelRecipe, shape: Shape) -> None:
    """Raises DoesNotApply where the model cannot be cut as the recipe says."""
    for axis, what, whole in (
        ("stages", "layers", shape.layers),
        ("tensor", "heads", shape.heads),
        ("tensor", "columns of the width", shape.emb_dim),
    ):
        parts = getattr(recipe, axis)
        if whole % parts:
            raise DoesNotApply(f"{whole} {what} do not divide over {parts} processes ({axis})")


def lay_out(recipe: ParallelRecipe, shape: Shape, device: torch.device) -> ParallelRun:
    """Build this process's part. All processes of the recipe call this together.

    The order: cut into stages, cut products, then tie replicas together (and compile).
    """
    refuse(recipe, shape)
    sizes = [getattr(recipe, axis) for axis in AXES]
    mesh = init_device_mesh(device.type, tuple(sizes), mesh_dim_names=AXES)
    elements = 0

    def wrap(model: nn.Module) -> nn.Module:
        nonlocal elements
        elements = sum(parameter.numel() for parameter in model.parameters())
        if recipe.pipeline:
            model = recipe.pipeline.cut(model, mesh.get_local_rank("stages"), recipe.stages)
        recipe.products.wrap(model, mesh["tensor"])
        return recipe.replicas.wrap(model, mesh["data"])

    built = build(recipe, shape, device, wrap)
    seed_dropout(mesh.get_local_rank("data"))  # the parts of one replica drop the same
    run = ParallelRun(
        **{part.name: getattr(built, part.name) for part in fields(Run)},
        mesh=mesh,
        whole_elements=elements,
    )
    if recipe.pipeline:
        run.loss = cross_entropy
        run.stage = recipe.pipeline.stage(run)
        run.schedule = recipe.pipeline.SCHEDULE(
            run.stage, recipe.micro_batches, loss_fn=lambda *given: run.loss(*given)
        )
    return run


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss, (), of logits (B, T, V) and the ids that follow (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def own_windows(run: ParallelRun, batch: torch.Tensor) -> torch.Tensor:
    """Of a step's windows (B, T), those of this process's replica, where they are."""
    return batch.chunk(run.recipe.data)[run.place("data")]


def forward_backward(run: ParallelRun, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gradients on this replica's windows (B, T). Returns the replica's mean loss, ().

    Only a pipeline's last stage knows the loss; the others return 0.
    """
    inputs, targets = to_device(run.recipe, run.device, inputs, targets)
    if run.schedule:
        return pipelined(run, inputs, targets)
    parts = run.recipe.micro_batches
    loss = torch.zeros((), device=run.device)
    for number in range(parts):
        sync = run.recipe.replicas.sync(run.model, last=number == parts - 1)
        with sync, run.recipe.products.loss():
            logits = run.model(inputs.chunk(parts)[number])
            part = cross_entropy(logits, targets.chunk(parts)[number]) / parts
            part.backward()
        loss += full(part)
    return loss


def pipelined(run: ParallelRun, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses: list[torch.Tensor] = []
    stage, last = run.place("stages"), run.recipe.stages - 1
    given = (inputs,) if stage == 0 else ()
    with run.recipe.products.loss():
        if stage == last:
            run.schedule.step(*given, target=targets, losses=losses)
            return torch.stack([full(loss) for loss in losses]).mean()
        run.schedule.step(*given)
    return torch.zeros((), device=run.device)


def parallel_step(run: ParallelRun, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One update of all processes on a step's windows (B, T). Returns this replica's loss, ()."""
    run.batch = own_windows(run, inputs), own_windows(run, targets)
    run.optimizer.zero_grad()
    loss = forward_backward(run, *run.batch)
    run.optimizer.step()
    return loss


def mean_loss(run: ParallelRun, loss: torch.Tensor) -> float:
    """The loss over all replicas. All processes call this together."""
    last = run.place("stages") == run.recipe.stages - 1
    total = loss.detach().float().clone() if last else torch.zeros((), device=run.device)
    if dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total.item() / (run.recipe.data * run.recipe.tensor)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without its graph, in full. All processes that hold a part of it call together."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_gradients(run: ParallelRun) -> dict[str, torch.Tensor]:
    """Every gradient in full by name, in the first process; all call together."""
    own = {name: full(p.grad).cpu().double() for name, p in run.inner.named_parameters()}
    gathered: list = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(own, gathered)
    return {name: grad for part in gathered or () for name, grad in part.items()}


def small(recipe: ParallelRecipe) -> ParallelRecipe:
    """The recipe for the equivalence check, without padding ids, which are different work."""
    return replace(recipe, dropout=0.0, batch_size=2, vocab_multiple=1)

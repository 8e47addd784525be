"""An update of this project's real model on tensors that have a shape and no memory.

FakeTensorMode runs every operator's rules for shapes and formats, as torch.compile does, so the
counter sees the storages that a real update would make, on any machine. Nothing is computed.
Source: docs.pytorch.org/docs/stable/user_guide/torch_compiler/torch.compiler_fake_tensor.html
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.gpt.shape import Shape
from common.workloads.train.build import Run, build, train_step
from common.workloads.train.recipe import Recipe
from common.workloads.train.tensor_memory import Counted, count_update
from common.workloads.train.update import Update

META, CPU = torch.device("meta"), torch.device("cpu")
MODE = FakeTensorMode()  # one for all: it remembers what operators give


def fake_parameters(model: nn.Module) -> nn.Module:
    """The model, with a fake tensor in place of each parameter and buffer.

    A module of fake parameters cannot be converted to another format (torch 2.13), one on the meta
    device can: so the model is built there.
    """
    with MODE:
        for module in model.modules():
            for name, one in module.named_parameters(recurse=False):
                fake = torch.empty(one.shape, dtype=one.dtype, device=CPU)
                setattr(module, name, nn.Parameter(fake))
            for name, one in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(one.shape, dtype=one.dtype, device=CPU))
    return model


def fake_run(recipe: Recipe, shape: Shape) -> Run:
    """A built recipe, of which nothing takes memory, and as if it were on a CPU."""
    with torch.device(META):
        run = build(recipe, shape, META, fake_parameters)
    run.device, run.update = CPU, Update(recipe, CPU)
    return run


def counts(recipe: Recipe, shape: Shape, batches: Iterable[int]) -> list[Counted]:
    """What an update of each batch holds, the optimizer having made one before."""
    run = fake_run(recipe, shape)
    with MODE:
        if recipe.in_backward:  # only a backward pass makes the moments
            train_step(run, *windows(recipe.accumulation, shape))
        else:
            for parameter in run.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=not recipe.keep_gradients)
        return [count_batch(run, *windows(batch, shape)) for batch in batches]


def count_batch(run: Run, inputs: torch.Tensor, targets: torch.Tensor) -> Counted:
    counted = count_update(run, lambda: train_step(run, inputs, targets))
    run.optimizer.zero_grad(set_to_none=not run.recipe.keep_gradients)
    return counted


def windows(batch: int, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, (B, T) each."""
    return tuple(torch.zeros(batch, shape.context, dtype=torch.int64) for _ in range(2))

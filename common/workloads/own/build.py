"""From a user's file and a recipe to a model and an optimizer that are ready to train."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from common.workloads.own.change import autocast, change, compiled, fitting, implemented, parts
from common.workloads.own.recipe import OwnRecipe
from common.workloads.own.user_file import UserFile, samples, seed_all

SEED = 123


@dataclass(slots=True)
class Run:
    """A built recipe. Probes look at it to see what really runs."""

    recipe: OwnRecipe
    user: UserFile
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    named: dict[str, nn.Parameter]  # by the names that the user's model has for them
    batch: object = None  # the last one, as batch() or the pinning of it gave it
    passes: int = 0  # through loss(), in the last step
    blocks: int = 0  # passes through a block in the step that was looked into
    operators: frozenset[str] = frozenset()  # that ran in it
    products: frozenset[str] = frozenset()  # number formats of its matrix products
    peak_bytes: int | None = None  # of its tensors; None: compiled, so not seen
    graphs: int = 0  # compiled
    breaks: list[str] = field(default_factory=list)  # of graphs: line and reason


def make_model(user: UserFile, recipe: OwnRecipe, device: torch.device, weights=None):
    """The model with the recipe's changes, not compiled, and its parameters by their first names.

    `weights`: a state to start from; None: the seed's.
    """
    seed_all(SEED)
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    model = user.model().to(device).train()
    if weights is not None:
        model.load_state_dict(weights)
    return model, change(model, recipe)


def build(user: UserFile, recipe: OwnRecipe, device: torch.device) -> Run:
    model, named = make_model(user, recipe, device)
    optimizer = implemented(user.optimizer(model), recipe.optimizer)
    compiled(model, recipe)
    seed_all(SEED)
    return Run(recipe, user, device, model, optimizer, named)


def fetch(run: Run):
    """A batch on the device; from pinned memory the host does not wait for the copy."""
    recipe, host = run.recipe, torch.device("cpu")
    made_on = host if recipe.pin_memory else run.device
    run.batch = run.user.batch(recipe.batch_size, made_on.type)
    if recipe.pin_memory:
        run.batch = pinned(run.batch)
    return fitting(run.batch, recipe, run.device)


def pinned(batch):
    from torch.utils.data._utils.pin_memory import pin_memory  # what DataLoader itself uses

    return pin_memory(batch)


def gradients(run: Run, batch) -> torch.Tensor:
    """Add the gradients of the mean loss over a batch's parts; returns it, ()."""
    whole, count = 0.0, run.recipe.accumulation
    run.passes = 0
    for part in parts(batch, count, samples(batch)):
        run.passes += 1
        with autocast(run.recipe, run.device):
            loss = run.user.loss(run.model, part)
        loss = loss / count if count > 1 else loss
        with run.user.telling("the backward pass"):
            loss.backward()
        whole = whole + loss.detach().clone()  # a CUDA graph would write the next one over it
    return whole


def train_step(run: Run, batch) -> torch.Tensor:
    run.optimizer.zero_grad()
    loss = gradients(run, batch)
    with run.user.telling("the optimizer"):
        run.optimizer.step()
    return loss


@contextmanager
def counted_blocks(run: Run) -> Iterator[Callable[[], int]]:
    """Gives what tells how often blocks were passed through, in the backward pass too.

    A model may have smaller parts recomputed than its blocks: a block's passes are those through
    the part of it that has most.
    """
    calls: Counter[nn.Module] = Counter()

    def count(part: nn.Module, *of_hook) -> None:
        calls[part] += 1

    blocks = [leaves(run.model.get_submodule(name)) for name in run.recipe.about.blocks]
    hooks = [part.register_forward_pre_hook(count) for block in blocks for part in block]
    try:
        yield lambda: sum(max(calls[part] for part in block) for block in blocks)
    finally:
        for hook in hooks:
            hook.remove()


def leaves(block: nn.Module) -> list[nn.Module]:
    """Its parts that have parameters and no parts of their own: they are in one block only."""
    parts = [part for part in block.modules() if not any(part.children())]
    return [part for part in parts if any(True for _ in part.parameters())] or [block]

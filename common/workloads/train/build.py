"""From a recipe and a shape to a model and an optimizer that are ready to train."""

import math
import re
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.gpt.weights import PADDED
from common.workloads.train.recipe import Recipe
from common.workloads.train.schedule import Rates
from common.workloads.train.update import InBackward, Update

SEED = 123
SEED_STRIDE = 1_000_003  # more than there are replicas
IN_BLOCK = re.compile(r"(^|\.)blocks\.")  # a parameter's name


@dataclass(slots=True)
class Run:
    """A built recipe. Probes look at it to see what really runs."""

    recipe: Recipe
    shape: Shape
    device: torch.device
    model: nn.Module
    objective: nn.Module  # the model and its loss
    optimizer: torch.optim.Optimizer
    update: Update
    rates: Rates
    batch: tuple[torch.Tensor, ...] = ()  # the last one, on the host, as the loader gave it
    operators: frozenset[str] = frozenset()  # that ran in one profiled step
    skipped: int = 0  # steps that a loss scaler found not fit for an update
    graphs: int = 0  # compiled
    graph_breaks: int = 0
    counted: object | None = None  # what an update held: tensor_memory.Counted, where it is counted
    feed: object | None = None  # where documents' batches come from: a Feed, where there is one

    @property
    def inner(self) -> GPT:
        """The model itself, without a wrapper around it."""
        return getattr(self.model, "module", self.model)


def build(
    recipe: Recipe,
    shape: Shape,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    updates: int = 1,
    seed: int = 0,
) -> Run:
    """Put the parts together. The order is the documentation.

    `wrap` makes a model train together with other processes' models. It comes before compiling, so
    that the compiler can cut the graph where gradients are ready to be sent. `updates`: over which
    the learning rate's schedule goes. `seed`: of the parameters and of dropout.
    """
    seed_dropout(replica=seed)  # parameters have seeds of their own
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    model = recipe.model(shape, recipe, padded_vocab_size(recipe, shape))
    seed_parameters(model, shape, seed)
    model.to(device=device, dtype=recipe.dtype)
    model = wrap(model)
    objective = recipe.objective(model, recipe)
    if recipe.compile:  # in place: state_dict keys do not gain a prefix
        (objective if recipe.loss_in_graph else model).compile(mode=recipe.compile_mode)
    update = Update(recipe, device)
    kind = partial(InBackward, recipe.optimizer) if recipe.in_backward else recipe.optimizer
    optimizer = kind(
        parameter_groups(model, recipe.matrices_apart),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        # None, not False, when it is off: torch then takes its usual default (for-each on GPUs)
        fused=recipe.fused_optimizer or None,
    )
    rates = Rates(optimizer, recipe.schedule(updates, recipe.warmup))
    return Run(recipe, shape, device, model, objective, optimizer, update, rates)


def seed_dropout(replica: int, steps: int = 0) -> None:
    """Start this process's random numbers on every device, once the model is built.

    Replicas that drop the same places would average fewer masks than they could. `steps`: done
    before, so that a run that goes on without its old random numbers does not repeat the first.
    """
    torch.manual_seed(SEED + replica + steps * SEED_STRIDE)


def parameter_groups(model: nn.Module, matrices_apart: bool = False) -> list[dict]:
    """One group of all parameters; one for each device mesh where they are sharded over several.

    A fused optimizer cannot update tensors of different meshes in one call. `matrices_apart`: the
    blocks' weight matrices, not those of the embeddings and the head, are in groups that say so.
    """
    groups: dict = {}
    for name, parameter in model.named_parameters():
        hidden = matrices_apart and parameter.ndim == 2 and IN_BLOCK.search(name) is not None
        key = getattr(parameter, "device_mesh", None), hidden
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters} | ({"matrices": True} if hidden else {})
        for (_, hidden), parameters in groups.items()
    ]


def padded_vocab_size(recipe: Recipe, shape: Shape) -> int:
    """The rows of the embedding and the head: the vocabulary, rounded up to the multiple."""
    return recipe.vocab_multiple * math.ceil(shape.vocab_size / recipe.vocab_multiple)


@torch.no_grad()
def seed_parameters(model: nn.Module, shape: Shape, seed: int = 0) -> None:
    """Initialise as nn.Linear and nn.Embedding do by default, each parameter from its own name.

    One global seed would shift every later draw as soon as a rung pads the vocabulary. Padding
    rows stay zero.
    """
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        own = SEED + zlib.crc32(name.encode()) + seed * SEED_STRIDE
        generator = torch.Generator().manual_seed(own)
        rows = parameter
        if name in PADDED:
            rows = parameter[: shape.vocab_size]
            parameter[shape.vocab_size :].zero_()
        if isinstance(module, nn.Embedding):
            rows.normal_(generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            rows.uniform_(-bound, bound, generator=generator)


def train_step(run: Run, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One update on token ids (B, T) and the ids that follow them (B, T). Returns the loss, ().

    The loss stays on the device: reading it here would wait for the device at every step.
    """
    run.optimizer.zero_grad(set_to_none=not run.recipe.keep_gradients)
    run.rates.next()  # before the backward pass, which may update
    loss = run.update.gradients(run.objective, inputs, targets, alone(run.model))
    run.skipped += not run.update.apply(run.optimizer, run.model.parameters())
    return loss


def alone(model: nn.Module) -> Callable:
    """Makes a context in which DDP sends no gradients; one without effect where it must.

    With a static graph it must: torch 2.13's reducer fails at a step that begins without.
    """
    waits = hasattr(model, "no_sync") and not getattr(model, "static_graph", False)
    return model.no_sync if waits else nullcontext


@torch.no_grad()
def evaluate(run: Run, batches) -> float:
    """Mean loss in nats over (inputs, targets) batches, without dropout or padding ids, in float32.

    Calls the inner forward, so that a compiled model is not compiled again for evaluation.
    """
    run.inner.eval()
    losses = []
    for inputs, targets in batches:
        logits = run.inner.forward(inputs.to(run.device))[..., : run.shape.vocab_size]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.to(run.device).flatten())
        losses.append(loss.item())
    run.inner.train()
    return sum(losses) / len(losses)

"""Loss and gradients of a whole update, as the optimizer gets them: for the check."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from common.gpt.shape import Shape
from common.workloads.train.build import Run, build, train_step
from common.workloads.train.equivalence import SHAPE, coarse_weights, made_up_ids
from common.workloads.train.recipe import Recipe
from common.workloads.train.update import IGNORED

WINDOWS = 8  # as many as the ladder's parts of a batch
# weights stay as they are in an update, so that a second one can be looked at
STILL = {"learning_rate": 0.0, "weight_decay": 0.0, "dropout": 0.0, "vocab_multiple": 1}


def answers_of_update(
    recipe: Recipe, device: torch.device, shape: Shape = SHAPE, own_loss: bool = True
) -> dict[str, torch.Tensor]:
    """`equivalence.answers`, of what the optimizer is given: all parts, unscaled, clipped.

    It is asked in the second of two updates: what the first one left must be gone. Windows count
    unequal numbers of targets. The loss is the recipe's own, whatever `own_loss` says.
    """
    run = build(replace(recipe, batch_size=WINDOWS, **STILL), shape, device)
    coarse_weights(run)
    ids = made_up_ids(shape, WINDOWS).to(device)
    inputs, targets = ids[:, :-1], of_unequal_length(ids[:, 1:])
    train_step(run, inputs.flip(0), ids[:, 1:])
    with given(run) as found:
        loss = train_step(run, inputs, targets)
    gradients = {
        name: found.get(parameter, torch.zeros_like(parameter))
        for name, parameter in run.inner.named_parameters()
    }
    answers = {"loss": loss} | gradients
    return {name: value.detach().cpu().double() for name, value in answers.items()}


def of_unequal_length(targets: torch.Tensor) -> torch.Tensor:
    """Targets (B, T), of which each window counts fewer than the one before it; the last, some."""
    windows, tokens = (torch.arange(size, device=targets.device) for size in targets.shape)
    lengths = len(tokens) - windows * len(tokens) // (len(windows) + 1)
    return targets.masked_fill(tokens >= lengths[:, None], IGNORED)


@contextmanager
def given(run: Run) -> Iterator[dict[torch.Tensor, torch.Tensor]]:
    """The gradients that optimizers are given, by parameter: some are gone when a step ends."""
    found: dict[torch.Tensor, torch.Tensor] = {}

    def before_update(optimizer, *of_hook) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    found[parameter] = parameter.grad.clone()

    hook = register_optimizer_step_pre_hook(before_update)
    try:
        yield found
    finally:
        hook.remove()

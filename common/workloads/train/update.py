"""How a batch becomes an update: in parts, in which format, scaled, clipped, all at once or not."""

import gc
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.amp import GradScaler

from common.accelerator.device import empty_cache

IGNORED = -100  # a target that no loss counts: torch's default for cross-entropy


class OnDevice(nullcontext):
    """What the forward pass keeps for the backward pass stays where it was made."""


def excluded(recipe) -> str | None:
    """Why a recipe's choices cannot stand together; None where they can."""
    if not recipe.in_backward:
        return None
    if recipe.accumulation > 1:
        return "an update in the backward pass excludes accumulation: no gradient waits to be added"
    if recipe.clip_norm:
        return "an update in the backward pass excludes clipping: the norm is that of all gradients"
    if recipe.loss_scaling:
        return "an update in the backward pass excludes a scaler: it skips the whole update or none"
    return None


class Update:
    """From a batch to its gradients, and from them to an update; `build` makes one of a recipe."""

    def __init__(self, recipe, device: torch.device) -> None:
        """Raises ValueError where the recipe's choices exclude each other."""
        if reason := excluded(recipe):
            raise ValueError(reason)
        self.device, self.parts, self.clip_norm = device, recipe.accumulation, recipe.clip_norm
        self.norm: torch.Tensor | None = None  # the last gradients', (), before it was clipped
        self.collects = recipe.collect_garbage
        self.kept = recipe.kept
        self.format = nullcontext
        if recipe.autocast:
            self.format = partial(torch.autocast, device.type, dtype=recipe.autocast)
        self.scaler = GradScaler(device.type, enabled=recipe.loss_scaling)  # off: it does nothing

    def gradients(self, objective: nn.Module, inputs, targets, alone=nullcontext) -> torch.Tensor:
        """Add the gradients of the mean loss, (), to the parameters', and return it.

        Of token ids (B, T) and the ids that follow them (B, T). A part weighs as much as the
        targets that it counts: windows may be of unequal length. Each must count one at least.
        `alone`: makes a context in which no gradient is sent to other processes; they are sent
        once, with the last part.
        """
        if self.parts == 1:
            return self.follow(objective, inputs, targets)
        whole, loss = (targets != IGNORED).sum(), 0.0
        parts = zip(inputs.chunk(self.parts), targets.chunk(self.parts), strict=True)
        for number, (ids, wanted) in enumerate(parts, start=1):
            share = (wanted != IGNORED).sum() / whole
            with nullcontext() if number == self.parts else alone():
                loss = loss + self.follow(objective, ids, wanted, share)
        return loss

    def follow(self, objective: nn.Module, inputs, targets, share=None) -> torch.Tensor:
        """Forward and backward pass of one part; `share`: its weight in the whole, (), or 1."""
        with self.format(), self.kept():
            loss = objective(inputs, targets)
        loss = loss if share is None else loss * share
        self.scaler.scale(loss).backward()
        return loss.detach().clone()  # a CUDA graph would write the next one over it

    def apply(self, optimizer: torch.optim.Optimizer, parameters) -> bool:
        """Update the parameters. False where a scaled gradient was no number, and none was updated.

        The norm is clipped of gradients that are not scaled any more, and of the whole batch's.
        """
        self.scaler.unscale_(optimizer)
        if self.clip_norm:
            self.norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        scale = self.scaler.get_scale()  # 1 where it is off; else this waits for the device
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.collects:
            gc.collect()
            empty_cache(self.device)
        return self.scaler.get_scale() >= scale


class InBackward(torch.optim.Optimizer):
    """Updates each parameter as soon as its gradient is there, and gives the gradient back.

    All of `kind`'s arithmetic, with an optimizer for each parameter. `step` has nothing left to do.
    Learning rates and the like are those of `param_groups`, as ever.
    Source: Lv et al. 2023, LOMO, arXiv:2306.09782; PyTorch, optimizer step in backward tutorial.
    """

    def __init__(self, kind: type[torch.optim.Optimizer], groups, **options) -> None:
        super().__init__(groups, options)
        for group in self.param_groups:
            for parameter in group["params"]:
                own = kind([parameter], **options)
                own.state = self.state
                parameter.register_post_accumulate_grad_hook(partial(self.update, own, group))

    @staticmethod
    def update(own: torch.optim.Optimizer, group: dict, parameter: torch.Tensor) -> None:
        own.param_groups[0] |= {name: v for name, v in group.items() if name != "params"}
        own.step()
        parameter.grad = None

    def step(self, closure=None) -> None:
        """Every parameter was updated in the backward pass."""

"""Batches of a text's windows, as a recipe has them made and copied."""

import torch

from common.gpt.text import Windows
from common.workloads.train.recipe import Recipe


def make_loader(windows: Windows, recipe: Recipe, sampler=None):
    """Batches of (inputs, targets), each (B, T) int64, from the recipe's loader.

    In the main process: tokens are in memory. Without a sampler: in order and with a last batch
    that may be smaller, as validation wants it.
    """
    return recipe.loader(
        windows,
        batch_size=recipe.batch_size,
        sampler=sampler,
        drop_last=sampler is not None,
        pin_memory=recipe.pin_memory and torch.accelerator.is_available(),
    )


def to_device(recipe: Recipe, device: torch.device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copy a batch to the device; from pinned memory the host does not wait for the copy."""
    return [tensor.to(device, non_blocking=recipe.pin_memory) for tensor in tensors]

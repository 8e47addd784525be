"""Changes that are made to a model from outside, once it is built."""

import inspect
import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from common.workloads.own import native
from common.workloads.own.recipe import (
    AUTOCAST,
    BFLOAT16,
    EIGHT_BIT,
    FOREACH,
    FUSED,
    WHOLE,
    OwnRecipe,
)
from common.workloads.train.adamw8 import AdamW8

MULTIPLE = 64  # rows of a padded head come in so many


class PaddedLinear(nn.Linear):
    """Multiplies by all rows of a padded weight, and returns the columns that are meant."""

    def __init__(self, old: nn.Linear, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.weight, self.bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., C) -> (..., V)
        return F.linear(x, self.weight, self.bias)[..., : self.out_features]


def change(model: nn.Module, recipe: OwnRecipe) -> dict[str, nn.Parameter]:
    """Make of a model as the user builds it what the recipe says, but for compiling it.

    Returns its parameters by the names that they had before.
    """
    about, named, wider = recipe.about, dict(model.named_parameters()), {}
    if recipe.native:
        native.install(model, about.native)
    if recipe.attention:
        for part in with_attention(model):
            part.set_attn_implementation(recipe.attention)
    if recipe.vocab_multiple > 1:
        wider = pad(model, about.padded, recipe.vocab_multiple)
    if recipe.precision == BFLOAT16:
        model.to(torch.bfloat16)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.checkpoint:
        recompute(model, about.blocks)
    return {name: wider.get(parameter, parameter) for name, parameter in named.items()}


def compiled(model: nn.Module, recipe: OwnRecipe) -> None:
    """In place: no name of a parameter changes."""
    if not recipe.compile:
        return
    names = [""] if recipe.compile == WHOLE else recipe.about.blocks
    for name in names:
        model.get_submodule(name).compile(mode=recipe.compile_mode)


def with_attention(model: nn.Module) -> list[nn.Module]:
    """The outermost parts whose attention can be set to the fused one."""
    found: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        inner = any(name.startswith(f"{other}." if other else "") for other in found)
        can = callable(getattr(part, "set_attn_implementation", None))
        if not inner and can and getattr(part, "_supports_sdpa", True):
            found[name] = part
    return list(found.values())


def pad(model: nn.Module, names: Iterable[str], multiple: int) -> dict:
    """More rows of zeros in heads and in embeddings that share a head's weight; they stay tied.

    Returns the new parameters by the old ones.
    """
    wider: dict[nn.Parameter, nn.Parameter] = {}

    def padded(old: nn.Parameter | None) -> nn.Parameter | None:
        if old is not None and old not in wider:
            rows = multiple * math.ceil(len(old) / multiple)
            new = old.new_zeros((rows, *old.shape[1:]))
            new[: len(old)] = old.detach()
            wider[old] = nn.Parameter(new, requires_grad=old.requires_grad)
        return None if old is None else wider[old]

    for name in names:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Embedding):
            layer.weight = padded(layer.weight)
        else:
            wide = PaddedLinear(layer, padded(layer.weight), padded(layer.bias))
            model.set_submodule(name, wide.train(layer.training))
    return wider


def recompute(model: nn.Module, blocks: Iterable[str]) -> None:
    """The model's own way, where it has one: it may have to leave out a cache, for example."""
    if getattr(model, "supports_gradient_checkpointing", False):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return
    for name in blocks:
        block = model.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def autocast(recipe: OwnRecipe, device: torch.device) -> torch.autocast:
    """The context of the forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == AUTOCAST)


def implemented(optimizer: torch.optim.Optimizer, how: str) -> torch.optim.Optimizer:
    """The same optimizer, computed in another way."""
    if not how:
        return optimizer
    kind = AdamW8 if how == EIGHT_BIT else type(optimizer)
    options = {} if how == EIGHT_BIT else {FUSED: None, FOREACH: None, how: True}
    known = inspect.signature(kind).parameters.keys() - {FUSED, FOREACH}

    def kept(values: dict) -> dict:
        return {name: value for name, value in values.items() if name in known}

    groups = [{"params": group["params"]} | kept(group) for group in optimizer.param_groups]
    return kind(groups, **kept(optimizer.defaults) | options)


def fitting(batch, recipe: OwnRecipe, device: torch.device, dtype: torch.dtype | None = None):
    """A batch as the recipe's model takes it. `dtype`: of what is a float; None: the recipe's."""
    if dtype is None and recipe.precision == BFLOAT16:
        dtype = torch.bfloat16

    def fit(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        wanted = dtype if leaf.is_floating_point() else None
        leaf = leaf.to(device=device, dtype=wanted, non_blocking=True)
        if recipe.channels_last and leaf.ndim == 4:
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        return leaf

    return tree_map(fit, batch)


def parts(batch, count: int, size: int) -> list:
    """A batch of so many samples in equal parts; what has no samples is in each."""
    if count == 1:
        return [batch]

    def part(number: int):
        def cut(leaf):
            whole = not isinstance(leaf, torch.Tensor) or not leaf.ndim or len(leaf) != size
            return leaf if whole else leaf.chunk(count)[number]

        return cut

    return [tree_map(part(number), batch) for number in range(count)]

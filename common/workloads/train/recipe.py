"""A recipe says how to train; a shape says what. A rung changes recipe fields and nothing else."""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import get_args, get_origin

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.gpt.model import (
    GELU,
    GPT,
    Block,
    CausalAttention,
    LayerNorm,
    Linear,
    LogitsLoss,
    StoredMask,
)
from common.workloads.train.schedule import Constant, Schedule
from common.workloads.train.update import OnDevice

OURS = ("common.gpt", "common.workloads", "steps", "ladders")  # where a recipe's parts may be
LARGEST = "largest"  # batch_size: double until memory ends (largest_batch.py)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every choice a rung may make, at its plain default. Each field is read in one place."""

    mask: type[nn.Module] = StoredMask  # where the causal mask comes from
    matmul_precision: str = "highest"  # float32 products: "highest" is IEEE, "high" allows TF32
    fused_optimizer: bool = False  # AdamW in one kernel for all parameters
    pin_memory: bool = False  # page-locked batches, copied without blocking
    loader: type = DataLoader  # what batches come from, or what takes its arguments
    dtype: torch.dtype = torch.float32  # of parameters and activations
    norm: type[nn.Module] = LayerNorm  # built as norm(emb_dim), with .weight and .bias
    activation: type[nn.Module] = GELU  # of the feed-forward layer, built without arguments
    attention: type[CausalAttention] = CausalAttention  # how heads attend
    embedding: type[nn.Embedding] = nn.Embedding  # of tokens, built as embedding(ids, emb_dim)
    linear: type[Linear] = Linear  # how the layers with a weight matrix multiply
    block: type[Block] = Block  # attention and feed-forward, built as block(shape, recipe)
    model: type[GPT] = GPT  # from ids to logits, built as model(shape, recipe, vocab_size)
    compile: bool = False  # torch.compile the model, in place
    compile_mode: str = "default"  # torch.compile's
    objective: type[nn.Module] = LogitsLoss  # from ids to the loss, built as objective(model, self)
    loss_in_graph: bool = False  # compile the objective instead of the model
    loss_rows: int = 0  # tokens at a time, for objectives that never hold all logits
    vocab_multiple: int = 1  # pad the vocabulary up to a multiple of this many ids
    batch_size: int | str = 8  # windows per step and device, or LARGEST
    dropout: float = 0.1  # probability, in the three usual places
    learning_rate: float = 5e-4  # at its peak
    schedule: type[Schedule] = Constant  # how it rises and falls
    warmup: int | float = 0  # updates of its rise; a float: their share of all
    weight_decay: float = 0.1  # AdamW, on all parameters
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW  # or what takes its arguments
    matrices_apart: bool = False  # the blocks' are in a parameter group of their own
    keep_gradients: bool = False  # between updates, as zeros
    accumulation: int = 1  # parts of a batch, one after the other, whose gradients add up
    autocast: torch.dtype | None = None  # of products and what torch.autocast converts for them
    loss_scaling: bool = False  # torch.amp's, for gradients too small for float16
    clip_norm: float = 0.0  # the most that the gradients' norm may be; 0: whatever it is
    in_backward: bool = False  # update each parameter as soon as its gradient is there
    kept: type = OnDevice  # context of the forward pass: where what it keeps for backward lies
    collect_garbage: bool = False  # and give unused memory back, at every update
    devices: int = 1  # that a step may use; only rungs that start several processes read it
    environment: tuple[str, ...] = ()  # NAME=VALUE, set before the process starts

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return 1

    @property
    def format(self) -> str:
        """The number format of the matrix products: "float32", "tf32", "bfloat16", ..."""
        if self.linear.format:
            return self.linear.format
        if self.autocast:
            return str(self.autocast).removeprefix("torch.")
        allows_tf32 = self.dtype is torch.float32 and self.matmul_precision == "high"
        return "tf32" if allows_tf32 else str(self.dtype).removeprefix("torch.")

    def to_json(self) -> dict:
        """The fields as plain values: classes and dtypes by name."""
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return values if type(self) is Recipe else values | {"recipe": plain(type(self))}

    @staticmethod
    def from_json(values: dict) -> "Recipe":
        """The recipe that `to_json` wrote. Imports the modules it names: for trusted jobs only."""
        return rebuilt(values, imported)

    @staticmethod
    def from_record(values: dict) -> "Recipe":
        """The same from a file: only types of this project and of torch. Raises ValueError."""
        return rebuilt(values, recognized)


class Written:
    """A recipe of one kind as plain values: a frozen dataclass, its classes and dtypes by name."""

    __slots__ = ()

    def to_json(self) -> dict:
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, values: dict):
        """The recipe that `to_json` wrote. Imports the modules it names: for trusted jobs only."""
        return rebuilt(values, imported, cls)

    @classmethod
    def from_record(cls, values: dict):
        """The same from a file: only types of this project and of torch. Raises ValueError."""
        return rebuilt(values, recognized, cls)


def plain(value):
    """A recipe value for a record: a class as its qualified name, a dtype as its own."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple):
        return list(value)  # as it comes back from a file: records are compared
    return str(value) if isinstance(value, torch.dtype) else value


def rebuilt(values: dict, find: Callable[[str], type | torch.dtype], plainest: type = Recipe):
    """The inverse of `to_json`: a recipe of the plainest kind, or of the kind that is named.

    `find` gives what a name stands for, in fields that hold types.
    """
    values = dict(values)
    kind = find(values.pop("recipe")) if "recipe" in values else plainest
    if not issubclass(kind, plainest):
        raise ValueError(f"{plain(kind)} is no recipe")
    named = {field.name for field in fields(kind) if holds_a_type(field.type)}

    def back(name: str, value):
        if isinstance(value, list):
            return tuple(value)
        return find(value) if name in named and isinstance(value, str) else value

    return kind(**{name: back(name, value) for name, value in values.items()})


def holds_a_type(annotation) -> bool:
    """Whether a field's values are classes or dtypes; other texts stay texts, dots or not."""
    if annotation in (type, torch.dtype) or get_origin(annotation) is type:
        return True
    return any(map(holds_a_type, get_args(annotation)))


def imported(name: str):
    """What a dotted name stands for, wherever it is."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def recognized(name: str) -> type | torch.dtype:
    """The same for a name that a file gave: a type of OURS, or one of torch's that is in use.

    Nothing else is imported. Raises ValueError.
    """
    module, _, attribute = name.rpartition(".")
    found = None
    if any(module == part or module.startswith(f"{part}.") for part in OURS):
        with suppress(ImportError):
            found = getattr(importlib.import_module(module), attribute, None)
    elif module.partition(".")[0] == "torch":
        found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type | torch.dtype) or plain(found) != name:
        raise ValueError(f"{name!r} is no type of this project or of torch")
    return found

"""A recipe says how to train; a shape says what. A rung changes recipe fields and nothing else."""

import importlib
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.gpt.model import GELU, Block, CausalAttention, LayerNorm, Linear, LogitsLoss, StoredMask

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
    linear: type[Linear] = Linear  # how the layers with a weight matrix multiply
    block: type[Block] = Block  # attention and feed-forward, built as block(shape, recipe)
    compile: bool = False  # torch.compile the model, in place
    compile_mode: str = "default"  # torch.compile's
    objective: type[nn.Module] = LogitsLoss  # from ids to the loss, built as objective(model, self)
    loss_in_graph: bool = False  # compile the objective instead of the model
    loss_rows: int = 0  # tokens at a time, for objectives that never hold all logits
    vocab_multiple: int = 1  # pad the vocabulary up to a multiple of this many ids
    batch_size: int | str = 8  # windows per step and device, or LARGEST
    dropout: float = 0.1  # probability, in the three usual places
    learning_rate: float = 5e-4  # AdamW, constant
    weight_decay: float = 0.1  # AdamW, on all parameters
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW  # or what takes its arguments
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
        allows_tf32 = self.dtype is torch.float32 and self.matmul_precision == "high"
        return "tf32" if allows_tf32 else str(self.dtype).removeprefix("torch.")

    def to_json(self) -> dict:
        """The fields as plain values: classes and dtypes by name."""
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return values if type(self) is Recipe else values | {"recipe": plain(type(self))}

    @staticmethod
    def from_json(values: dict) -> "Recipe":
        """The recipe that `to_json` wrote. Imports the modules it names: for trusted jobs only."""
        restored_values = {name: restored(value) for name, value in values.items()}
        return restored_values.pop("recipe", Recipe)(**restored_values)


def plain(value):
    """A recipe value for a record: a class as its qualified name, a dtype as its own."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple):
        return list(value)  # as it comes back from a file: records are compared
    return str(value) if isinstance(value, torch.dtype) else value


def restored(value):
    """The inverse of `plain`: a dotted name becomes the class or dtype it names."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str) or "." not in value:
        return value
    module, _, name = value.rpartition(".")
    return getattr(importlib.import_module(module), name)

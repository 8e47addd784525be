"""A GPT that generates, built from a file of a compressed model.

Each matrix multiplies in its own format; a block may have fewer heads and neurons than it was
trained with. Shapes: B requests, n new tokens, t tokens so far with them, H heads, D head width,
C model width, V vocabulary.
"""

import json
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from common.workloads.compress.formats import Format, Plain
from common.workloads.compress.integers import quantised_inputs
from common.workloads.compress.parts import EMBEDDING, HEAD, POSITIONS, Parts
from common.workloads.train.recipe import plain as named
from common.workloads.train.recipe import recognized

Tensors = Mapping[str, torch.Tensor]


class Cache:
    """Keys and values of the tokens so far, in slots for `capacity` tokens that are taken once."""

    def __init__(self, model: "Model", requests: int, capacity: int) -> None:
        slots = (model.layers, requests, model.heads, capacity, model.head_width)
        self.keys = torch.zeros(slots, dtype=model.dtype, device=model.positions.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def extend(self, layer: int, key, value) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's new keys and values, (B, H, n, D) each; gives all so far."""
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Norm(nn.Module):
    """Layer normalisation, in torch's own kernel."""

    def __init__(self, plain: Tensors, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        for part in ("weight", "bias"):
            self.register_buffer(part, plain[f"{name}.{part}"].to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-5)


class Block(nn.Module):
    """Attention, then feed-forward, each behind a norm and beside a shortcut."""

    def __init__(self, name: str, heads: int, layers: Mapping[str, nn.Module], plain, dtype):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (
            Norm(plain, f"{name}.{norm}", dtype) for norm in ("norm1", "norm2")
        )
        for kind in ("qkv", "out_proj", "expand", "contract"):
            self.add_module(kind, layers[f"{name}.{kind}"])

    def forward(self, x: torch.Tensor, layer: int, cache: Cache | None) -> torch.Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, D)
        query, key, value = parts.transpose(1, 3).unbind(2)  # (B, H, n, D) each
        if cache is not None:
            key, value = cache.extend(layer, key, value)  # (B, H, t, D) each
        context = attend(query, key, value)
        x = x + self.out_proj(context.transpose(1, 2).flatten(2))  # (B, H, n, D) -> (B, n, H D)
        return x + self.contract(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))


def attend(query, key, value) -> torch.Tensor:
    """Queries (B, H, n, D), the last n of t tokens, over keys and values (B, H, t, D)."""
    n, t = query.shape[2], key.shape[2]
    if n == 1 and query.device.type == "cpu" and query.dtype.itemsize == 2:  # slow in 16 bits
        wide = (part.float() for part in (query, key, value))
        return F.scaled_dot_product_attention(*wide).to(query.dtype)
    mask = None
    if 1 < n < t:
        mask = torch.ones(n, t, dtype=torch.bool, device=query.device).tril(t - n)
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=n == t and n > 1)


class Model(nn.Module):
    """Logits of tokens. The head is applied to the positions that are asked for, and no more."""

    def __init__(self, heads: int, width: int, layers: dict, plain: Tensors, dtype) -> None:
        super().__init__()
        self.heads, self.head_width, self.dtype = heads, width, dtype
        self.embedding = layers[EMBEDDING]
        self.head = layers.get(HEAD, self.embedding)
        self.register_buffer("positions", plain[POSITIONS].to(dtype))
        self.layers = sum(name.endswith(".qkv") for name in layers)
        names = (f"blocks.{layer}" for layer in range(self.layers))
        self.blocks = nn.ModuleList(Block(name, heads, layers, plain, dtype) for name in names)
        self.final_norm = Norm(plain, "final_norm", dtype)

    @torch.no_grad()
    def forward(self, ids: torch.Tensor, cache: Cache | None = None, last: int = 0) -> torch.Tensor:
        """Ids (B, n) int64, after those in the cache, to the logits of the last of them, or of all.

        (B, last or n, V). The ids are in the cache afterwards.
        """
        return self.head(self.hidden(ids, cache)[:, -last:])

    @torch.no_grad()
    def hidden(self, ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """What the head reads of ids (B, n), after those in the cache: (B, n, C)."""
        start, n = cache.length if cache else 0, ids.shape[1]
        x = self.embedding.rows(ids) + self.positions[start : start + n]  # (B, n, C)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache)
        if cache is not None:
            cache.length += n
        return self.final_norm(x)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all that is kept of the weights, scales and second copies included."""
        return sum(buffer.nbytes for buffer in self.buffers())


def decode(model: Model, cache: Cache, ids: torch.Tensor, count: int):
    """The `count` likeliest tokens after ids (B, 1): (B, count), and the last one's logits."""
    found = []
    for _ in range(count):
        logits = model(ids, cache, last=1)  # (B, 1, V)
        ids = logits.argmax(dim=-1)
        found.append(ids)
    return torch.cat(found, dim=1), logits


# -- files --


def file_of(parts: Parts, recipes: Mapping, inputs) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors and the metadata of a model's file; `recipes`: of each matrix, by name.

    `inputs(name)`: makes the statistics of what a matrix reads; None where it reads nothing.
    """
    tensors, formats = {}, {}
    for name, weight in parts.matrices.items():
        recipe = recipes[name]
        own = recipe.format.store(weight, recipe, inputs(name))
        tensors |= {f"{name}.{part}": tensor for part, tensor in own.items()}
        formats[name] = named(recipe.format)
    dtype = next(iter(recipes.values())).dtype
    tensors |= {name: tensor.to(dtype) for name, tensor in parts.plain.items()}
    sizes = {"heads": str(parts.heads), "head_width": str(parts.head_width)}
    return tensors, sizes | {"formats": json.dumps(formats)}


def built(tensors: Tensors, metadata: dict, dtype: torch.dtype, device, exact: bool = False):
    """A model of a file's tensors; `exact`: in float64, of what they stand for, without kernels."""
    formats = json.loads(metadata["formats"])
    layers, plain = {}, {k: tensor.to(device) for k, tensor in tensors.items()}
    for name, kind in formats.items():
        own = {k: plain.pop(f"{name}.{k}") for k in parts_in(plain, name)}
        bias, kind = plain.pop(f"{name}.bias", None), recognized(kind)
        if exact:
            layers[name] = Exact(kind.dense(own), own.get("input_scale"), bias)
        else:
            uses = {
                "reads": name == EMBEDDING,
                "multiplies": HEAD not in formats or name != EMBEDDING,
            }
            layers[name] = kind(own, bias, dtype, **uses)
    sizes = int(metadata["heads"]), int(metadata["head_width"])
    return Model(*sizes, layers, plain, torch.float64 if exact else dtype)


def of_parts(parts: Parts) -> Model:
    """A model of the parts as they are, in float32."""
    layers = {
        name: Plain({"weight": weight}, parts.plain.get(f"{name}.bias"), torch.float32)
        for name, weight in parts.matrices.items()
    }
    return Model(parts.heads, parts.head_width, layers, parts.plain, torch.float32)


def parts_in(tensors: Tensors, name: str) -> list[str]:
    """The parts of a matrix among a file's tensors; its bias is none."""
    dotted = f"{name}."
    found = (key.removeprefix(dotted) for key in tensors if key.startswith(dotted))
    return [part for part in found if part != "bias"]


class Exact(Format):
    """A matrix as its tensors define it, in float64: what kernels are compared with."""

    def __init__(self, weight: torch.Tensor, input_scale, bias) -> None:
        super().__init__(bias, torch.float64)
        self.weight, self.input_scale = weight, input_scale

    def multiply(self, rows):
        if self.input_scale is not None:
            scale = self.input_scale.double()
            rows = quantised_inputs(rows, scale) * scale
        return rows @ self.weight.t()

    def rows(self, ids):
        return self.weight[ids]


def matrix_bytes(tensors: Tensors, metadata: dict) -> int:
    """Bytes of a file's matrices with their scales and masks, and without biases."""
    names = json.loads(metadata["formats"])
    return sum(tensors[f"{name}.{k}"].nbytes for name in names for k in parts_in(tensors, name))

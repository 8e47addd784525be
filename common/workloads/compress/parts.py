"""A GPT in pieces: its weight matrices by name, as they are multiplied, and all the rest.

Query, key, and value are one matrix. A head that is the embedding is there once, as "embedding".
Shapes: C model width, H heads, D head width, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

State = dict[str, torch.Tensor]  # parameters by GPT's names, float32
QKV = ("W_query", "W_key", "W_value")
EMBEDDING, HEAD, POSITIONS = "embedding", "head", "position_embedding.weight"
MATRICES = {  # of a block that are one matrix in GPT, too: their names there
    "out_proj": "attention.out_proj",
    "expand": "feed_forward.expand",
    "contract": "feed_forward.contract",
}
BEFORE = {"qkv": "norm1", "expand": "norm2"}  # the norm whose output a matrix reads


@dataclass(frozen=True, eq=False)
class Parts:
    """`heads`: of each layer. Biases are "blocks.0.qkv.bias" and so on, among `plain`."""

    heads: int
    matrices: State  # (N, K) each, by "embedding", "blocks.0.qkv", and so on
    plain: State

    @property
    def layers(self) -> int:
        return len({name.split(".")[1] for name in self.matrices if name.startswith("blocks.")})

    @property
    def head_width(self) -> int:
        return self.matrices["blocks.0.out_proj"].shape[1] // self.heads

    def scaled(self, name: str, by: torch.Tensor) -> "Parts":
        """A matrix's inputs divided by (K,), and its columns multiplied: the same model exactly.

        What the matrix reads is made otherwise: by the norm before it, or, before the output
        projection, by the rows of the matrix that makes the values.
        """
        matrices, plain = dict(self.matrices), dict(self.plain)
        matrices[name] = matrices[name] * by
        block, _, kind = name.rpartition(".")
        if kind in BEFORE:
            for part in ("weight", "bias"):
                own = f"{block}.{BEFORE[kind]}.{part}"
                plain[own] = plain[own] / by
        else:
            query_and_key = by.new_ones(2 * len(by))
            rows = torch.cat([query_and_key, by])
            matrices[f"{block}.qkv"] = matrices[f"{block}.qkv"] / rows[:, None]
            if f"{block}.qkv.bias" in plain:
                plain[f"{block}.qkv.bias"] = plain[f"{block}.qkv.bias"] / rows
        return replace(self, matrices=matrices, plain=plain)

    def without(self, kept: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> "Parts":
        """The model rebuilt with these heads and neurons of each layer only; as many in each."""
        matrices, plain = dict(self.matrices), dict(self.plain)
        for layer, (heads, neurons) in enumerate(kept):
            block = f"blocks.{layer}"
            width = self.head_width
            columns = (heads[:, None] * width + torch.arange(width)).flatten()  # of the context
            rows = torch.cat([columns + part * self.heads * width for part in range(3)])
            matrices[f"{block}.qkv"] = matrices[f"{block}.qkv"][rows]
            if f"{block}.qkv.bias" in plain:
                plain[f"{block}.qkv.bias"] = plain[f"{block}.qkv.bias"][rows]
            matrices[f"{block}.out_proj"] = matrices[f"{block}.out_proj"][:, columns]
            matrices[f"{block}.expand"] = matrices[f"{block}.expand"][neurons]
            plain[f"{block}.expand.bias"] = plain[f"{block}.expand.bias"][neurons]
            matrices[f"{block}.contract"] = matrices[f"{block}.contract"][:, neurons]
        return replace(self, heads=len(heads), matrices=matrices, plain=plain)


def parts_of(state: State, heads: int) -> Parts:
    """The pieces of a model's parameters, of which q, k, and v may have biases, as GPT-2's have."""
    matrices, plain = {EMBEDDING: state["token_embedding.weight"]}, {POSITIONS: state[POSITIONS]}
    layers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    for block in (f"blocks.{layer}" for layer in sorted(layers, key=int)):
        for kind in ("weight", "bias"):
            each = [f"{block}.attention.{part}.{kind}" for part in QKV]
            if each[0] in state:
                own = matrices if kind == "weight" else plain
                name = f"{block}.qkv" if kind == "weight" else f"{block}.qkv.bias"
                own[name] = torch.cat([state[part] for part in each])
        for name, theirs in MATRICES.items():
            matrices[f"{block}.{name}"] = state[f"{block}.{theirs}.weight"]
            plain[f"{block}.{name}.bias"] = state[f"{block}.{theirs}.bias"]
        for norm in BEFORE.values():
            for part in ("weight", "bias"):
                plain[f"{block}.{norm}.{part}"] = state[f"{block}.{norm}.{part}"]
    for part in ("weight", "bias"):
        plain[f"final_norm.{part}"] = state[f"final_norm.{part}"]
    if not torch.equal(state["head.weight"], state["token_embedding.weight"]):
        matrices[HEAD] = state["head.weight"]
    return Parts(heads, matrices, plain)

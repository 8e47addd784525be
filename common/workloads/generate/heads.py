"""Query heads that share heads of keys and values: the layer, and its parameters.

H query heads in K groups of G neighbours: head h reads the keys and values of head h // G.
Otherwise shapes are as in model.py.
"""

import re

import torch

from common.workloads.generate.model import Attention, State

KEYS_AND_VALUES = re.compile(r".*\.W_(key|value)\.(weight|bias)")


class Sharing(Attention):
    """Keys and values have the heads that their weights have. A subclass says how they are read."""

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        own, width = self.qkv(x), x.shape[-1]  # (B, n, C + 2 K D)
        parts = own.split((width, *[(own.shape[-1] - width) // 2] * 2), dim=-1)
        heads = (part.unflatten(-1, (-1, width // self.heads)) for part in parts)
        return tuple(part.transpose(1, 2) for part in heads)  # (B, H or K, n, D)


def repeated(query, key, value) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same with keys and values (B, K, t, D) written out for each query head: (B, H, t, D)."""
    size = query.shape[1] // key.shape[1]
    return query, *(part.repeat_interleave(size, dim=1) for part in (key, value))


def pooled(state: State, heads: int, kv_heads: int) -> State:
    """Multi-head parameters with the heads of keys and values averaged within each group.

    Source: Ainslie et al. 2023, GQA, arXiv:2305.13245, section 2.1.
    """

    def mean(parameter):
        grouped = parameter.unflatten(0, (kv_heads, heads // kv_heads, -1))  # (K, G, D, …)
        return grouped.mean(dim=1).flatten(0, 1)  # (K D, …)

    return changed(state, mean)


def spread(state: State, heads: int) -> State:
    """The same model with a head of keys and values for every query head: each one's group's."""

    def repeated(parameter):
        width = state["final_norm.weight"].shape[0] // heads
        by_head = parameter.unflatten(0, (-1, width))  # (K D, …) -> (K, D, …)
        return by_head.repeat_interleave(heads // by_head.shape[0], dim=0).flatten(0, 1)  # (C, …)

    return changed(state, repeated)


def changed(state: State, change) -> State:
    return {k: change(p) if KEYS_AND_VALUES.fullmatch(k) else p for k, p in state.items()}

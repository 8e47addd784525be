"""Weights whose query heads share keys and values: pooled from a base model, then trained a little.

The control is the base model itself, trained as long from the same point on the same windows. What
sharing costs is the loss over the control's: more training alone lowers the base model's, too.
Source: Ainslie et al. 2023, GQA, arXiv:2305.13245 (uptraining).
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from common.engine.machine import cache_dir
from common.gpt.weights import load_unpadded_state, unpadded_state
from common.workloads.generate.base import (
    RECIPE,
    FastAttention,
    Weights,
    aloud,
    base_path,
    kept,
    train,
    weights_for,
)
from common.workloads.generate.heads import pooled
from common.workloads.generate.settings import Settings
from common.workloads.train.build import build

DATA_SEED = 12  # other windows than the base model began with


class SharingAttention(FastAttention):
    """Training's attention with K heads of keys and values."""

    def __init__(self, emb_dim: int, heads: int, *more, kv_heads: int) -> None:
        super().__init__(emb_dim, heads, *more)
        self.width = emb_dim // heads
        self.W_key, self.W_value = (
            type(layer)(emb_dim, kv_heads * self.width, bias=False)
            for layer in (self.W_key, self.W_value)
        )

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.width)).transpose(1, 2)  # (B, T, K D) -> (B, K, T, D)

    def attend(self, query, key, value) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def weights_with(settings: Settings, kv_heads: int) -> Weights:
    """The settings' weights with so many heads of keys and values."""
    if kv_heads == settings.shape.heads:
        return weights_for(settings)
    if settings.uptrain_steps:
        control(settings)  # trained now, so that whoever asks for it later need not wait
    return uptrained(settings, kv_heads)


def control(settings: Settings) -> Weights:
    """The multi-head weights that sharing is compared with."""
    return uptrained(settings, settings.shape.heads)


def uptrained(settings: Settings, kv_heads: int) -> Weights:
    """Pooled and trained, or pooled alone: a file's weights and untrained ones."""
    if not settings.uptrain_steps:
        return pooled_base(settings, kv_heads)
    path = uptrained_path(settings, kv_heads)
    return kept(path, settings, lambda: go_on(settings, kv_heads, aloud))


def pooled_base(settings: Settings, kv_heads: int) -> Weights:
    base = weights_for(settings)
    told = base.told | {"kv_heads": kv_heads, "uptrain_steps": settings.uptrain_steps}
    return Weights(pooled(base.state, settings.shape.heads, kv_heads), told)


def uptrained_path(settings: Settings, kv_heads: int) -> Path:
    """Where they are kept: by the base model's own hash, how they are trained, and this code."""
    sources = (Path(__file__), Path(__file__).with_name("heads.py"))
    code = b"".join(source.read_bytes() for source in sources)
    facts = (base_path(settings).name, kv_heads, settings.uptrain_steps, DATA_SEED)
    key = hashlib.sha256(repr(facts).encode() + code).hexdigest()
    return cache_dir() / f"heads-{key[:16]}.pt"


def go_on(settings: Settings, kv_heads: int, say: Callable[[str], None]) -> Weights:
    """Train the pooled base model on this machine's processor; `say`: see `train_base`."""
    start = pooled_base(settings, kv_heads)
    recipe = replace(RECIPE, attention=partial(SharingAttention, kv_heads=kv_heads))
    run = build(recipe, settings.shape, torch.device("cpu"))
    load_unpadded_state(run.model, start.state)
    what = f"{kv_heads} of {settings.shape.heads} heads of keys and values"
    loss = train(run, settings.text, settings.uptrain_steps, DATA_SEED, what, say)
    return Weights(unpadded_state(run.model, settings.shape), start.told | {"loss": loss})

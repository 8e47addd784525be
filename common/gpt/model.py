"""GPT-2, written out as a from-scratch book would, and cut where the rungs will need a seam.

Shapes: B batch, T tokens, H heads, D head width, C model width (H D), V vocabulary.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class StoredMask(nn.Module):
    """The causal mask, made once and kept on the device: a (T, T) buffer in every layer."""

    def __init__(self, context: int) -> None:
        super().__init__()
        future = torch.ones(context, context, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, tokens: int, device: torch.device) -> torch.Tensor:
        """(T, T) bool, True where the key lies in the query's future."""
        return self.future[:tokens, :tokens]


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, operation by operation.

    Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450.
    """

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(emb_dim))
        self.bias = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.weight * ((x - mean) / torch.sqrt(variance + self.eps)) + self.bias


class GELU(nn.Module):
    """The tanh form of GELU that GPT-2 uses. Source: Hendrycks, Gimpel 2016, arXiv:1606.08415."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1.0 + torch.tanh(inner))


class Linear(nn.Linear):
    """torch's own, cut where a rung may choose the number format of its products."""

    format: str | None = None  # of the products; None: that of weights and activations

    def operands(self, x: torch.Tensor, weight: torch.Tensor):
        """What is multiplied, in the format that it is multiplied in."""
        return x, weight

    def multiply(self, x: torch.Tensor, weight: torch.Tensor, bias=None) -> torch.Tensor:
        """x (..., K) and weight (N, K) to (..., N)."""
        return F.linear(*self.operands(x, weight), bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.multiply(x, self.weight, self.bias)


class CausalAttention(nn.Module):
    """Multi-head causal self-attention with separate query, key, and value projections."""

    def __init__(
        self,
        emb_dim: int,
        heads: int,
        dropout: float,
        mask: nn.Module,
        linear: type[Linear] = Linear,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.W_query = linear(emb_dim, emb_dim, bias=False)
        self.W_key = linear(emb_dim, emb_dim, bias=False)
        self.W_value = linear(emb_dim, emb_dim, bias=False)
        self.out_proj = linear(emb_dim, emb_dim)
        self.mask = mask
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.split_heads(self.W_query(x))
        key = self.split_heads(self.W_key(x))
        value = self.split_heads(self.W_value(x))
        context = self.attend(query, key, value)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)

    def attend(self, query, key, value) -> torch.Tensor:
        """Three (B, H, T, D) tensors to one. The (T, T) scores are written out in full."""
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, T)
        scores.masked_fill_(self.mask(query.shape[-2], query.device), -torch.inf)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return weights @ value


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, emb_dim: int, activation: nn.Module, linear: type[Linear]) -> None:
        super().__init__()
        self.expand = linear(emb_dim, 4 * emb_dim)
        self.activation = activation
        self.contract = linear(4 * emb_dim, emb_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(self.activation(self.expand(x)))


class Block(nn.Module):
    """Attention, then feed-forward, each behind a norm and beside a shortcut (pre-norm)."""

    recomputed: bool | None = False  # whether the backward pass makes it again; None: some of it

    def __init__(self, shape, recipe) -> None:
        super().__init__()
        mask, linear = recipe.mask(shape.context), recipe.linear
        self.norm1 = recipe.norm(shape.emb_dim)
        self.attention = recipe.attention(shape.emb_dim, shape.heads, recipe.dropout, mask, linear)
        self.norm2 = recipe.norm(shape.emb_dim)
        self.feed_forward = FeedForward(shape.emb_dim, recipe.activation(), linear)
        self.dropout = nn.Dropout(recipe.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class GPT(nn.Module):
    """GPT-2 with learned positions and an untied head. `vocab_size` may exceed the tokenizer's.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
    """

    def __init__(self, shape, recipe, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = recipe.embedding(vocab_size, shape.emb_dim)
        self.position_embedding = nn.Embedding(shape.context, shape.emb_dim)
        self.dropout = nn.Dropout(recipe.dropout)
        self.blocks = nn.ModuleList(recipe.block(shape, recipe) for _ in range(shape.layers))
        self.final_norm = recipe.norm(shape.emb_dim)
        self.head = recipe.linear(shape.emb_dim, vocab_size, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) int64 to logits (B, T, V)."""
        return self.head(self.hidden(ids))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) int64 to what the head reads, (B, T, C)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)


class LogitsLoss(nn.Module):
    """The objective: the logits in full, then their cross-entropy with the ids that follow."""

    def __init__(self, model: nn.Module, recipe) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to the mean loss, ()."""
        return F.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())


def parameter_sizes(shape, vocab_size: int) -> list[int]:
    """Elements of every parameter, in the order of GPT.parameters(): embedding first, head last."""
    width = shape.emb_dim
    norm = [width, width]  # weight, bias
    attention = [width**2] * 4 + [width]  # query, key, value, output projection and its bias
    feed_forward = [4 * width**2, 4 * width, 4 * width**2, width]
    block = [*norm, *attention, *norm, *feed_forward]
    vocabulary = vocab_size * width
    return [vocabulary, shape.context * width, *block * shape.layers, *norm, vocabulary]


def parameter_count(shape, vocab_size: int) -> int:
    """All parameters, exactly: 12 L C^2 + 10 L C + 2 C + T C + 2 V C for this model."""
    return sum(parameter_sizes(shape, vocab_size))

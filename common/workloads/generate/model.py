"""A GPT that generates: it reads new tokens on top of a cache of those before them.

It is built from the parameters of common.gpt.model.GPT, by their names there, in float32. Query,
key, and value are one product, as in GPT-2's own files; norms and GELU are torch's own kernels.
Shapes: B requests, n new tokens, t tokens so far with them, H heads, D head width, C model width
(H D), V vocabulary.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

State = dict[str, torch.Tensor]  # parameters by name
QKV = ("W_query", "W_key", "W_value")


def under(state: State, prefix: str) -> State:
    """The parameters of a part, by their names in it."""
    dotted = f"{prefix}."
    return {k.removeprefix(dotted): v for k, v in state.items() if k.startswith(dotted)}


class Norm(nn.Module):
    """Layer normalisation, in torch's own kernel."""

    def __init__(self, state: State, recipe) -> None:
        super().__init__()
        self.register_buffer("weight", state["weight"].to(recipe.dtype))
        self.register_buffer("bias", state["bias"].to(recipe.dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-5)


class Embedding(nn.Module):
    """Rows of a table."""

    def __init__(self, state: State, recipe) -> None:
        super().__init__()
        self.register_buffer("weight", state["weight"].to(recipe.dtype))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight)


class Attention(nn.Module):
    """Causal self-attention of new tokens over all so far. The (n, t) scores are written out."""

    def __init__(self, layer: int, heads: int, state: State, recipe) -> None:
        super().__init__()
        self.layer, self.heads = layer, heads
        weight = torch.cat([state[f"{name}.weight"] for name in QKV])  # (3 C, C)
        bias = None  # GPT-2's own files have one, this project's model has none
        if "W_query.bias" in state:
            bias = torch.cat([state[f"{name}.bias"] for name in QKV])
        self.qkv = recipe.linear(weight, bias, recipe)
        self.out_proj = recipe.linear(state["out_proj.weight"], state["out_proj.bias"], recipe)

    @classmethod
    def kv_heads(cls, heads: int, recipe) -> int:
        """How many heads keys and values have, where queries have so many."""
        return heads

    def forward(self, x: torch.Tensor, positions: torch.Tensor, seen, cache) -> torch.Tensor:
        query, key, value = self.project(x)
        keys, values = cache.extend(self.layer, key, value, positions)  # (B, H, t, D) each
        context = self.attend(query, keys, values, seen)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, H, n, D) -> (B, n, C)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key, and value of new tokens, x (B, n, C), by head."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3 C) -> (B, n, 3, H, D)
        return parts.transpose(1, 3).unbind(2)  # (B, H, n, D) each

    def attend(self, query, key, value, seen: torch.Tensor | None) -> torch.Tensor:
        """Queries (B, H, n, D) over keys and values (B, H, t, D). `seen`: see Cache.seen."""
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, n, t)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return torch.softmax(scores, dim=-1) @ value


class Block(nn.Module):
    """Attention, then feed-forward, each behind a norm and beside a shortcut."""

    def __init__(self, layer: int, heads: int, state: State, recipe) -> None:
        super().__init__()
        wide, narrow = (under(state, f"feed_forward.{part}") for part in ("expand", "contract"))
        self.norm1 = Norm(under(state, "norm1"), recipe)
        self.attention = recipe.attention(layer, heads, under(state, "attention"), recipe)
        self.norm2 = Norm(under(state, "norm2"), recipe)
        self.expand = recipe.linear(wide["weight"], wide["bias"], recipe)
        self.contract = recipe.linear(narrow["weight"], narrow["bias"], recipe)

    def forward(self, x: torch.Tensor, positions, seen, cache) -> torch.Tensor:  # (B, n, C)
        x = x + self.attention(self.norm1(x), positions, seen, cache)
        return x + self.contract(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))


class Decoder(nn.Module):
    """Logits of new tokens. The head is applied to the positions that are asked for, and no more.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
    """

    def __init__(self, heads: int, state: State, recipe) -> None:
        super().__init__()
        self.token_embedding = Embedding(under(state, "token_embedding"), recipe)
        self.position_embedding = Embedding(under(state, "position_embedding"), recipe)
        layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        parts = (under(state, f"blocks.{layer}") for layer in range(layers))
        self.blocks = nn.ModuleList(
            Block(layer, heads, part, recipe) for layer, part in enumerate(parts)
        )
        self.final_norm = Norm(under(state, "final_norm"), recipe)
        self.head = recipe.linear(state["head.weight"], None, recipe)
        self.one_by_one = self.logits  # what a pass of a single token runs: a rung may compile it

    def forward(self, ids: torch.Tensor, cache, last: int = 1) -> torch.Tensor:
        """New ids (B, n) int64, after those in the cache, to the logits of the last of them.

        (B, last, V): each position's are those of the token that follows it. The ids are in the
        cache afterwards. Raises IndexError where it has no room for them.
        """
        single = ids.shape[1] == 1
        ids, positions = cache.begin(ids)
        return (self.one_by_one if single else self.logits)(ids, positions, cache, last)

    def logits(self, ids: torch.Tensor, positions: torch.Tensor, cache, last: int) -> torch.Tensor:
        """What is computed of ids (B, n) at their positions, once the cache is ready.

        The positions are (n,), or (B, n) where requests are unevenly long.
        """
        seen = cache.seen(positions)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, n, C)
        for block in self.blocks:
            x = block(x, positions, seen, cache)
        return self.head(self.final_norm(x[:, -last:]))  # (B, last, V)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all that is kept of the weights, scales included."""
        return sum(buffer.nbytes for buffer in self.buffers())

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that one new token reads: all, but of the embeddings a row each."""
        tables = [self.token_embedding.weight, self.position_embedding.weight]
        return self.weight_bytes - sum(table.nbytes - table[0].nbytes for table in tables)


@torch.no_grad()
def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Greedy: logits (B, 1, V) to the ids that follow, (B, 1)."""
    return logits.argmax(dim=-1)


@torch.no_grad()
def decode(
    model: Decoder, cache, ids: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` tokens that follow ids (B, 1), which are not in the cache yet: (B, count).

    And the logits of the last of them, (B, 1, V). It is not put into the cache: nothing came after
    it.
    """
    found = []
    for _ in range(count):
        logits = model(ids, cache)
        ids = likeliest(logits)
        found.append(ids)
    return torch.cat(found, dim=1), logits.clone()  # a CUDA graph writes there again

"""A transformer written by hand, on the bytes of Python's reference. Needs torch alone."""

import os
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, LAYERS, CONTEXT = (32, 2, 16) if os.environ.get("EXAMPLES_TINY") else (192, 4, 64)
TEXT = torch.tensor([*"".join(topics.values()).encode()])
SEEDED = torch.Generator().manual_seed(0)


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


class GELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):  # (B, T, C), in heads of 16
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, -1, 16)).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, 16)
        future = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
        weights = (q @ k.mT / 4).masked_fill(future, -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attention, self.norm2 = LayerNorm(), Attention(), LayerNorm()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def model():
    blocks = (Block() for _ in range(LAYERS))
    return nn.Sequential(nn.Embedding(256, WIDTH), *blocks, LayerNorm(), nn.Linear(WIDTH, 256))


def batch(batch_size, device):
    at = torch.randint(len(TEXT) - CONTEXT, (batch_size, 1), generator=SEEDED)
    return TEXT[at + torch.arange(CONTEXT + 1)].to(device)


def loss(model, ids):
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

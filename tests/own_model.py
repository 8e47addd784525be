"""A small hand-written transformer as a user's file: for test_own.py, at a size that takes no time.

Its norm and its activation are written out, its head has an odd number of rows, and its block
repeats.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, TOKENS, WIDTH, LAYERS = 1003, 16, 32, 2


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + 1e-6) + self.shift


class GELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = Norm(), nn.Linear(TOKENS, TOKENS)
        self.wide, self.act, self.narrow = nn.Linear(WIDTH, 64), GELU(), nn.Linear(64, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.narrow(self.act(self.wide(self.norm(x)))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.02)  # logits near 0, as at any usual start
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def model():
    return Net()


def batch(batch_size, device):
    start = torch.randint(VOCAB, (batch_size, 1), device=device)
    return {"ids": (start + torch.arange(TOKENS + 1, device=device)) % VOCAB}


def loss(model, batch):
    ids = batch["ids"]
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def units(batch):
    return batch["ids"][:, 1:].numel()

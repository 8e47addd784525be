"""Sampling text from a model while it trains. Greedy: the same model says the same thing."""

import torch
from torch import nn

from common.gpt.shape import Shape
from common.gpt.text import tokenizer


@torch.no_grad()
def next_ids(logits: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The likeliest id after each position: logits (B, T, V) to ids (B, 1).

    Ids from `vocab_size` on are padding that no tokenizer can decode, so they never win.
    """
    return logits[:, -1:, :vocab_size].argmax(dim=-1)


@torch.no_grad()
def generate(model: nn.Module, shape: Shape, prompt: str, count: int = 50) -> str:
    """The prompt and `count` more tokens, on one line.

    Calls the inner forward: a compiled model would be compiled anew for every length.
    """
    ids = torch.tensor(
        [tokenizer().encode_ordinary(prompt)], device=next(model.parameters()).device
    )  # (1, T)
    model.eval()
    for _ in range(count):
        logits = model.forward(ids[:, -shape.context :])
        ids = torch.cat([ids, next_ids(logits, shape.vocab_size)], dim=1)
    model.train()
    return " ".join(tokenizer().decode(ids[0].tolist()).split())

"""GPT-2, on the words of Python's reference. Needs transformers."""

import os
from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel

WIDTH, LAYERS, CONTEXT = (32, 2, 16) if os.environ.get("EXAMPLES_TINY") else (128, 4, 64)
WORDS = " ".join(topics.values()).split()
IDS = {word: number for number, word in enumerate(sorted({*WORDS}))}
TEXT, SEEDED = torch.tensor([IDS[word] for word in WORDS]), torch.Generator().manual_seed(0)


def model():
    sizes = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": WIDTH // 16}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(IDS), use_cache=False, **sizes, **ends))


def batch(batch_size, device):
    at = torch.randint(len(TEXT) - CONTEXT, (batch_size, 1), generator=SEEDED)
    return TEXT[at + torch.arange(CONTEXT)].to(device)


def loss(model, ids):
    return model(input_ids=ids, labels=ids).loss

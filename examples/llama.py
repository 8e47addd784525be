"""Llama, on the bytes of Python's reference. Needs transformers."""

import os
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WIDTH, LAYERS, CONTEXT = (32, 2, 16) if os.environ.get("EXAMPLES_TINY") else (192, 4, 64)
TEXT = torch.tensor([*"".join(topics.values()).encode()])
SEEDED = torch.Generator().manual_seed(0)


def model():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 3 * WIDTH}
    heads = {"num_attention_heads": WIDTH // 16, "num_key_value_heads": WIDTH // 32}
    more = {"vocab_size": 256, "max_position_embeddings": CONTEXT, "use_cache": False}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **more))


def batch(batch_size, device):
    at = torch.randint(len(TEXT) - CONTEXT, (batch_size, 1), generator=SEEDED)
    return TEXT[at + torch.arange(CONTEXT)].to(device)


def loss(model, ids):
    return model(input_ids=ids, labels=ids).loss

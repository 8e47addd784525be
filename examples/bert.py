"""BERT, which guesses hidden bytes of Python's reference. Needs transformers."""

import os
from pydoc_data.topics import topics

import torch
from transformers import BertConfig, BertForMaskedLM

WIDTH, LAYERS, CONTEXT = (32, 2, 16) if os.environ.get("EXAMPLES_TINY") else (192, 4, 64)
TEXT = torch.tensor([*"".join(topics.values()).encode()])
SEEDED, HIDDEN = torch.Generator().manual_seed(0), 256


def model():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 4 * WIDTH}
    more = {"num_attention_heads": WIDTH // 16, "max_position_embeddings": CONTEXT}
    return BertForMaskedLM(BertConfig(vocab_size=HIDDEN + 1, **sizes, **more))


def batch(batch_size, device):
    at = torch.randint(len(TEXT) - CONTEXT, (batch_size, 1), generator=SEEDED)
    ids = TEXT[at + torch.arange(CONTEXT)]
    hidden = torch.rand(CONTEXT, generator=SEEDED).argsort() < CONTEXT // 6
    inputs, labels = ids.masked_fill(hidden, HIDDEN), ids.masked_fill(~hidden, -100)
    return {"input_ids": inputs.to(device), "labels": labels.to(device)}


def loss(model, batch):
    return model(**batch).loss

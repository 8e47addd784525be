"""ViT, which finds the brightest colour of a noisy image. Needs transformers."""

import os

import torch
from transformers import ViTConfig, ViTForImageClassification

WIDTH, LAYERS, SIZE = (32, 2, 16) if os.environ.get("EXAMPLES_TINY") else (192, 4, 64)
SEEDED = torch.Generator().manual_seed(0)


def model():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 4 * WIDTH}
    more = {"num_attention_heads": WIDTH // 16, "image_size": SIZE, "patch_size": 8}
    return ViTForImageClassification(ViTConfig(num_labels=3, **sizes, **more))


def batch(batch_size, device):
    images = torch.randn(batch_size, 3, SIZE, SIZE, generator=SEEDED)
    labels = torch.randint(3, (batch_size,), generator=SEEDED)
    images[torch.arange(batch_size), labels] += 0.5
    return images.to(device), labels.to(device)


def loss(model, batch):
    images, labels = batch
    return model(pixel_values=images, labels=labels).loss

"""ConvNeXt, which finds the brightest colour of a noisy image. Needs transformers."""

import os

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

WIDTH, BLOCKS, SIZE = (8, 1, 32) if os.environ.get("EXAMPLES_TINY") else (64, 2, 64)
SEEDED = torch.Generator().manual_seed(0)


def model():
    sizes = {"hidden_sizes": [WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH], "depths": [BLOCKS] * 4}
    return ConvNextForImageClassification(ConvNextConfig(num_labels=3, image_size=SIZE, **sizes))


def batch(batch_size, device):
    images = torch.randn(batch_size, 3, SIZE, SIZE, generator=SEEDED)
    labels = torch.randint(3, (batch_size,), generator=SEEDED)
    images[torch.arange(batch_size), labels] += 0.5
    return images.to(device), labels.to(device)


def loss(model, batch):
    images, labels = batch
    return model(pixel_values=images, labels=labels).loss

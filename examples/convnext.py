"""ConvNeXt, which finds the brighter quarter of a noisy image. Needs transformers."""

import os

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

WIDTH, BLOCKS, SIZE = (8, 1, 32) if os.environ.get("EXAMPLES_TINY") else (48, 2, 64)
SEEDED = torch.Generator().manual_seed(0)


def model():
    sizes = {"hidden_sizes": [WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH], "depths": [BLOCKS] * 4}
    return ConvNextForImageClassification(ConvNextConfig(num_labels=4, image_size=SIZE, **sizes))


def batch(batch_size, device):
    images = torch.randn(batch_size, 3, SIZE, SIZE, generator=SEEDED)
    labels = torch.randint(4, (batch_size,), generator=SEEDED)
    for image, label in zip(images, labels.tolist(), strict=True):
        image.unflatten(1, (2, -1)).unflatten(3, (2, -1))[:, label // 2, :, label % 2] += 0.5
    return images.to(device), labels.to(device)


def loss(model, batch):
    images, labels = batch
    return model(pixel_values=images, labels=labels).loss

"""How fast this device reads memory, at best: the roofline of decoding one request."""

import torch

from common.engine.device import GIB
from common.workloads.train.ceilings import seconds_of

READ_BYTES = GIB // 2  # far above any cache
ROWS = 64


def read_bandwidth(device: torch.device) -> float:
    """Bytes/s of the fastest of a few ways to read a large matrix once."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    matrix = numbers.view(ROWS, -1)
    row, column = matrix[0].clone(), torch.ones(ROWS, device=device)
    ways = (
        numbers.sum,
        lambda: numbers.dot(numbers),
        lambda: matrix @ row,
        lambda: column @ matrix,
    )
    return READ_BYTES / min(seconds_of(way, device) for way in ways)

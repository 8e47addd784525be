"""What loops have in common that are written out to be compiled."""

from collections.abc import Callable

import torch

OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}  # a product and a sum in one rounding


def compiled(loop: Callable) -> Callable:
    """The loop, compiled anew for every shape: with symbolic lengths it is slower."""
    return torch.compile(loop, dynamic=False, fullgraph=True, options=OPTIONS)

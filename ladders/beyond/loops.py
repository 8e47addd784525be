"""What loops have in common that are written out to be compiled, and fit a CPU's registers."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}  # a product and a sum in one rounding
LIMIT = 64  # compilations of a loop in one process; torch's own 8 are two lengths in four quarters
# 2^r for r in [-0.5, 0.5] to 8e-8 of itself, by least squares reweighted until the largest error
# no longer fell.
POWERS = (1.00000007, 0.69314697, 0.2402212, 0.05550713, 0.00967554, 0.00132764)


def compiled(loop: Callable) -> Callable:
    """The loop, compiled anew for every shape: with symbolic lengths it is slower."""
    known = inspect.signature(torch.compile).parameters  # torch 2.11 has no such limit yet
    limit = {"recompile_limit": LIMIT} if "recompile_limit" in known else {}
    return torch.compile(loop, dynamic=False, fullgraph=True, options=OPTIONS, **limit)


def power_of_2(x: Tensor) -> Tensor:
    """2^x for finite x < 127, the whole part put into the exponent's bits (IEEE 754, binary32).

    Below 2^-126 it is 0. Written out, because a library's is a call, and spills the registers.
    """
    whole = torch.round(x)
    power = POWERS[-1]
    for coefficient in POWERS[-2::-1]:
        power = power * (x - whole) + coefficient
    return power * ((whole.to(torch.int32) + 127).clamp_min(0) << 23).view(torch.float32)

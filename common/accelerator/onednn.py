"""What oneDNN, the library of torch's products on CPUs, can do on this one."""

import platform
from functools import cache

import torch


@cache
def packs_bfloat16() -> bool:
    """Whether a 16-bit weight can be kept as oneDNN's products read it; x86 needs AVX-512. Tried.

    The refusal is of torch 2.13 (aten/src/ATen/native/mkldnn/Linear.cpp).
    """
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=torch.bfloat16), None)
    except RuntimeError:
        return False
    return True


@cache
def multiplies_int8() -> bool:
    """Whether unsigned times signed 8-bit products are summed exactly.

    Without VNNI or AMX an x86 CPU adds two of them in 16 bits, which cuts large sums
    (oneDNN, Nuances of int8 computations).
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return torch.cpu._is_vnni_supported()
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))

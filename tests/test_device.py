"""What is said of a device, from what torch says of it: made-up devices of each vendor."""

import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from common.accelerator.device import bf16_in_hardware, describe, give_back
from common.engine.device import GIB


def intel(matrix_units: bool, conversions: bool) -> SimpleNamespace:
    return SimpleNamespace(
        name="Intel card",
        total_memory=16 * GIB,
        has_subgroup_matrix_multiply_accumulate=matrix_units,
        has_bfloat16_conversions=conversions,
    )


@pytest.mark.parametrize(
    ("architecture", "native"),
    [
        ("gfx900", False),  # Vega
        ("gfx906:sramecc+:xnack-", False),  # MI50
        ("gfx908:sramecc+:xnack-", True),  # MI100
        ("gfx90a:sramecc+:xnack-", True),  # MI250X
        ("gfx90c", False),  # Vega in a Ryzen
        ("gfx942:sramecc+:xnack-", True),  # MI300X
        ("gfx950:sramecc+:xnack-", True),  # MI355X
        ("gfx1010", False),  # RX 5700
        ("gfx1030", False),  # RX 6800
        ("gfx1100", True),  # RX 7900
        ("gfx1151", True),  # Strix Halo
        ("gfx1201", True),  # RX 9070
    ],
)
def test_on_amd_the_architecture_tells_bfloat16(architecture, native):
    assert bf16_in_hardware("amd", SimpleNamespace(gcnArchName=architecture)) is native


def test_on_intel_conversions_are_no_arithmetic():
    assert bf16_in_hardware("intel", intel(matrix_units=True, conversions=True))
    assert not bf16_in_hardware("intel", intel(matrix_units=False, conversions=True))


@pytest.mark.parametrize(("major", "native"), [(6, False), (7, False), (8, True), (9, True)])
def test_on_nvidia_the_capability_tells_bfloat16(major, native):
    assert bf16_in_hardware("nvidia", SimpleNamespace(major=major)) is native


@pytest.mark.parametrize(("architecture", "native"), [("gfx1010", False), ("gfx942", True)])
def test_an_amd_card_has_no_compute_capability(monkeypatch, architecture, native):
    """ROCm's torch gives one, (9, 4) for gfx942, which would read as NVIDIA's."""
    card = SimpleNamespace(name="AMD card", total_memory=16 * GIB, gcnArchName=architecture)
    monkeypatch.setattr(torch.version, "hip", "7.1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 4))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = describe("cuda")
    assert (found.vendor, found.capability, found.native_bf16) == ("amd", None, native)
    assert (found.name, found.memory_gib) == ("AMD card", 16.0)


@pytest.mark.parametrize("matrix_units", [False, True])
def test_an_intel_card_says_whether_it_multiplies_bfloat16(monkeypatch, matrix_units):
    card = intel(matrix_units, conversions=True)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    found = describe("xpu")
    assert (found.vendor, found.native_bf16) == ("intel", matrix_units)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_no_tensor_uses_goes_back_to_the_system():
    """Holes between tensors that live on: they stay this process's until they are asked for."""
    tensors = [torch.ones(2**14) for _ in range(4096)]  # 64 KiB each: of the heap, none mapped
    kept = tensors[63::64]
    del tensors
    before = psutil.Process().memory_info().rss
    give_back(torch.device("cpu"))
    assert before - psutil.Process().memory_info().rss > 128 * 2**20
    assert all(one.sum() == 2**14 for one in kept)

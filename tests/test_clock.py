"""The arithmetic of the measurement, with fake clocks and devices."""

import pytest
import torch

from common.device import DeviceFacts
from common.largest_batch import search
from common.measure import EventClock, HostClock, time_steps
from common.process import Outcome
from common.recipe import Recipe


class FakeDevice:
    """A device whose queued work finishes late: time passes for the host only when it waits."""

    def __init__(self):
        self.host_s, self.queued_s = 0.0, 0.0

    def launch(self, seconds):
        self.host_s += 0.001
        self.queued_s = max(self.queued_s, self.host_s) + seconds

    def wait(self):
        self.host_s = max(self.host_s, self.queued_s)

    def now(self):
        return self.host_s


class FakeEvent:
    """Remembers when the device, not the host, gets to it."""

    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = max(self.device.queued_s, self.device.host_s)

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


def test_the_host_clock_waits_for_the_device():
    device = FakeDevice()
    steps, _ = time_steps(
        lambda: device.launch(0.5), 4, HostClock(device.wait, device.now), device.wait
    )
    assert steps == pytest.approx([0.501] * 4)


def test_the_event_clock_times_the_device_without_making_the_host_wait():
    device, waits = FakeDevice(), []

    def wait():
        waits.append(device.host_s)
        device.wait()

    steps, _ = time_steps(
        lambda: device.launch(0.5), 4, EventClock(wait, lambda: FakeEvent(device)), wait
    )
    assert sum(steps) == pytest.approx(4 * 0.5, rel=0.01)
    assert len(waits) <= 3  # at the window's edges, and when the events are read; not per step


def test_what_happened_before_the_window_is_not_in_it():
    device = FakeDevice()
    device.launch(100.0)  # a compilation, an evaluation: still running when the window begins
    clock = HostClock(device.wait, device.now)
    assert time_steps(lambda: device.launch(0.5), 1, clock, device.wait)[0] == [
        pytest.approx(0.501)
    ]


def facts(name: str, capability=(9, 0)) -> DeviceFacts:
    return DeviceFacts(
        type="cuda",
        name=name,
        vendor="nvidia",
        memory_gib=80,
        native_bf16=capability >= (8, 0),
        capability=capability,
    )


def test_the_peak_is_the_dense_one_of_the_format_in_use():
    h100 = facts("NVIDIA H100 80GB HBM3")
    assert h100.peak_flops(Recipe(dtype=torch.bfloat16)) == 989e12
    assert h100.peak_flops(Recipe(matmul_precision="high")) == 495e12
    assert h100.peak_flops(Recipe()) == 67e12
    assert facts("NVIDIA H100 PCIe").peak_flops(Recipe(dtype=torch.bfloat16)) == 756e12
    assert facts("NVIDIA L40S").peak_flops(Recipe(dtype=torch.bfloat16)) == 362e12
    assert facts("NVIDIA L4").peak_flops(Recipe(dtype=torch.bfloat16)) == 121e12


@pytest.mark.parametrize("name", ["NVIDIA H1000", "Some Card", "NVIDIA A100X", "AMD EPYC"])
def test_an_unknown_device_has_no_peak(name):
    assert facts(name).peak_flops(Recipe(dtype=torch.bfloat16)) is None


def trial(batch: int, fits: int, wall_s: float = 1.0) -> Outcome:
    status = "ok" if batch <= fits else "oom"
    measurement = {"peak_reserved_gib": batch / 4} if status == "ok" else {}
    return Outcome(status=status, reason="", wall_s=wall_s, measurement=measurement)


def test_the_search_doubles_until_memory_ends():
    tried = []

    def attempt(batch):
        tried.append(batch)
        return trial(batch, fits=50)

    found = search(8, attempt, most=10_000)
    assert (found.batch_size, tried) == (32, [16, 32, 64])
    assert "out of memory" in found.why


def test_the_search_keeps_the_start_when_nothing_larger_trains():
    assert search(8, lambda batch: trial(batch, fits=8), most=10_000).batch_size == 8


@pytest.mark.parametrize(
    ("limit", "batch", "why"),
    [
        ({"most": 100}, 64, "only 100 windows"),
        ({"most": 10_000, "ram_gib": 10.0}, 32, "10.0 GiB"),
        ({"most": 10_000, "seconds": 1.5}, 16, "1.5 s"),
    ],
)
def test_the_search_stops_at_its_limits(limit, batch, why):
    found = search(8, lambda batch: trial(batch, fits=10_000), **limit)
    assert found.batch_size == batch
    assert why in found.why

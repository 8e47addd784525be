"""The arithmetic of the measurement, with fake clocks and devices."""

import pytest
import torch

from common.accelerator.device import EventClock
from common.accelerator.peaks import peak_flops
from common.engine.child import guarded
from common.engine.clock import HostClock, time_steps
from common.engine.device import DeviceFacts
from common.engine.errors import out_of_memory
from common.engine.process import Outcome
from common.engine.settle import Trials
from common.workloads.train.build import train_step
from common.workloads.train.largest_batch import Search, SearchFailed, find_largest
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.recipe import Recipe
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING
from ladders.beyond.step15_float8 import Float8Linear
from tests.conftest import measured


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
        lambda: device.launch(0.5), (4).__gt__, HostClock(device.wait, device.now)
    )
    assert steps == pytest.approx([0.501] * 4)


def test_the_event_clock_times_the_device_without_making_the_host_wait():
    device, waits = FakeDevice(), []

    def wait():
        waits.append(device.host_s)
        device.wait()

    steps, _ = time_steps(
        lambda: device.launch(0.5), (4).__gt__, EventClock(wait, lambda: FakeEvent(device))
    )
    assert sum(steps) == pytest.approx(4 * 0.5, rel=0.01)
    assert len(waits) <= 3  # at the window's edges, and when the events are read; not per step


def test_what_happened_before_the_window_is_not_in_it():
    device = FakeDevice()
    device.launch(100.0)  # a compilation, an evaluation: still running when the window begins
    clock = HostClock(device.wait, device.now)
    assert time_steps(lambda: device.launch(0.5), (1).__gt__, clock)[0] == [pytest.approx(0.501)]


def facts(name: str, capability=(9, 0)) -> DeviceFacts:
    return DeviceFacts(
        type="cuda",
        name=name,
        vendor="nvidia",
        memory_gib=80,
        native_bf16=capability >= (8, 0),
        capability=capability,
    )


def peak(device: DeviceFacts, recipe: Recipe) -> float | None:
    return peak_flops(device.name, recipe.format)


def test_the_peak_is_the_dense_one_of_the_format_in_use():
    h100 = facts("NVIDIA H100 80GB HBM3")
    assert peak(h100, Recipe(dtype=torch.bfloat16)) == 989e12
    assert peak(h100, Recipe(matmul_precision="high")) == 495e12
    assert peak(h100, Recipe()) == 67e12
    assert peak(facts("NVIDIA H100 PCIe"), Recipe(dtype=torch.bfloat16)) == 756e12
    assert peak(facts("NVIDIA L40S"), Recipe(dtype=torch.bfloat16)) == 362e12
    assert peak(facts("NVIDIA L4"), Recipe(dtype=torch.bfloat16)) == 121e12


FLOAT8 = Recipe(dtype=torch.bfloat16, linear=Float8Linear)


@pytest.mark.parametrize(
    ("name", "recipe", "tflops"),
    [
        ("NVIDIA H200", Recipe(dtype=torch.bfloat16), 989),
        ("NVIDIA H200 NVL", Recipe(dtype=torch.bfloat16), 835),
        ("NVIDIA H200 NVL", FLOAT8, 1671),
        ("NVIDIA H100 NVL", Recipe(), 60),
        ("NVIDIA GH200 480GB", Recipe(dtype=torch.bfloat16), 990),
        ("NVIDIA B200", Recipe(dtype=torch.bfloat16), 2250),
        ("A100-SXM4-40GB", Recipe(dtype=torch.bfloat16), 312),  # as older drivers print it
        ("NVIDIA A100 80GB PCIe", Recipe(matmul_precision="high"), 156),
        ("NVIDIA A100 80GB PCIe", FLOAT8, None),
        ("NVIDIA L40S", FLOAT8, 733),
        ("NVIDIA L40", Recipe(), 90.5),
        ("NVIDIA L4", FLOAT8, 242.5),
        ("NVIDIA GeForce RTX 4090", FLOAT8, 330.3),
        ("GeForce RTX 3090", Recipe(dtype=torch.bfloat16), 71),
        ("Tesla V100-PCIE-16GB", Recipe(), 14),
        ("Tesla V100-PCIE-16GB", Recipe(dtype=torch.bfloat16), None),
        ("Tesla T4", Recipe(), 8.1),
    ],
)
def test_each_variant_of_a_card_has_its_own_peak(name, recipe, tflops):
    found = peak(facts(name), recipe)
    assert found is None if tflops is None else found == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA H1000", "Some Card", "AMD EPYC", "AMD Instinct MI300X", "AMD Instinct MI250X"),
        # parts of a card: MIG slices, also the whole of it, and vGPUs
        *("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA H100 80GB HBM3 MIG 7g.80gb"),
        *("NVIDIA A10-4Q", "GRID A100-10C", "GRID T4-16Q", "NVIDIA L40S-48Q", "NVIDIA A40-8Q"),
        # other cards whose names hold a known one
        *("NVIDIA A100X", "NVIDIA A10G", "NVIDIA T4G", "NVIDIA H20", "NVIDIA H800", "NVIDIA GB200"),
        *("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        *("NVIDIA GeForce RTX 3090 Ti", "NVIDIA RTX A4000", "NVIDIA RTX 4000 Ada Generation"),
        *("NVIDIA A100-SXM-64GB", "Tesla V100-SXM3-32GB", "Tesla V100-SXM2-32GB-LS"),
    ],
)
def test_an_unknown_device_has_no_peak(name):
    for recipe in (Recipe(), Recipe(dtype=torch.bfloat16), FLOAT8):
        assert peak(facts(name), recipe) is None


def trial(batch: int, fits: int, wall_s: float = 1.0) -> Outcome:
    status = "ok" if batch <= fits else "oom"
    measurement = {"peak_reserved_gib": batch / 4} if status == "ok" else {}
    return Outcome(status=status, reason="", wall_s=wall_s, measurement=measurement)


def test_the_search_doubles_until_memory_ends():
    tried = []

    def attempt(batch):
        tried.append(batch)
        return trial(batch, fits=50)

    found = Search(8, attempt, most=10_000).run()
    assert (found.batch_size, tried) == (32, [16, 32, 64])
    assert "out of memory" in found.why


@pytest.mark.parametrize(
    ("fits", "device_gib", "tries", "batch", "why"),
    [
        (500, 140.0, [16, 32, 512, 256], 256, "512: out of memory"),  # a leap that went too far
        (300, 70.0, [16, 32, 256], 256, "512 would need about 128 of 70 GiB"),
        (40, 14.4, [16, 32], 32, "64 would need about 16 of 14 GiB"),
        (40, 15.0, [16, 32, 64], 32, "64: out of memory"),  # too near to be left out
    ],
)
def test_two_tries_foresee_the_others_on_an_accelerator(fits, device_gib, tries, batch, why):
    tried = []

    def attempt(size):
        tried.append(size)
        return trial(size, fits)

    found = Search(8, attempt, device_gib=device_gib).run()
    assert (found.batch_size, found.why, tried) == (batch, why, tries)


def test_the_text_does_not_end_the_runners_search():
    tried = []

    def child(job):
        tried.append(job.recipe.batch_size)
        return trial(tried[-1], fits=1000)

    shape = PRESETS["gpt2"].shape  # of which the text has 122 windows
    settings = Settings(shape=shape, device="cuda")
    trials = Trials(workload=TRAINING, settings=settings, run=child)
    found = find_largest(Recipe(batch_size=8), 8, trials, seconds=1.0)
    assert found.batch_size == 512
    assert tried == [16, 32, 64, 128, 256, 512, 1024]


@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_a_try_that_fails_otherwise_is_no_largest_batch(status):
    def attempt(size):
        broken = Outcome(status=status, reason="the compiler broke", wall_s=1.0)
        return broken if size == 32 else trial(size, 10_000)

    with pytest.raises(SearchFailed, match="failed at batch 32: the compiler broke"):
        Search(8, attempt, most=10_000).run()


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("a file named out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error, is_memory, monkeypatch):
    assert out_of_memory(error) is is_memory
    wrapped = RuntimeError("backend='inductor' raised")
    wrapped.__cause__ = error
    assert out_of_memory(wrapped) is is_memory
    monkeypatch.setattr("common.engine.child.do", lambda *_: raises(error))
    assert guarded({}, print)["status"] == ("oom" if is_memory else "failed")


def raises(error: Exception):
    raise error


def test_leftovers_are_given_back_before_the_warm_up_ends(monkeypatch):
    """The peak is the recipe's own, not what autotuning and the check before it took."""
    seen = []
    monkeypatch.setattr(
        "common.workloads.train.session.give_back", lambda device: seen.append("give back")
    )

    def step(*arguments):
        seen.append("step")
        return train_step(*arguments)

    monkeypatch.setattr("common.workloads.train.session.train_step", step)
    measured(
        baseline("tiny"), Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=3)
    )
    assert seen == ["step", "give back", "step", "step", "step", "step"]


def test_the_search_keeps_the_start_when_nothing_larger_trains():
    assert Search(8, lambda batch: trial(batch, fits=8), most=10_000).run().batch_size == 8


@pytest.mark.parametrize(
    ("limit", "batch", "why"),
    [
        ({"most": 100}, 64, "only 100 windows"),
        ({"most": 10_000, "ram_gib": 10.0}, 32, "10.0 GiB"),
        ({"most": 10_000, "seconds": 1.5}, 16, "1.5 s"),
    ],
)
def test_the_search_stops_at_its_limits(limit, batch, why):
    found = Search(8, lambda batch: trial(batch, fits=10_000), **limit).run()
    assert found.batch_size == batch
    assert why in found.why

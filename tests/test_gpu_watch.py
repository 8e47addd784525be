"""The GPU watch, on a hand-written NVML whose every answer is scripted."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from common.engine.gpu_watch import WINDOW, GpuWatch, disturbance
from common.workloads.train.metrics import low_utilisation

H100 = "NVIDIA H100 80GB HBM3"
NOBODY = 2**31 - 1  # above every system's largest process id: one of another pid namespace
BITS = {
    "GpuIdle": 0x01,
    "ApplicationsClocksSetting": 0x02,
    "SwPowerCap": 0x04,
    "HwSlowdown": 0x08,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
NOTHING = dict.fromkeys(WINDOW)
STEADY = {
    "sm": [1200, 1980, 1965],
    "memory": [2619, 2619, 2619],
    "temperature": [60, 66, 64],
    "power": [500_000, 690_000, 700_000],
    "utilisation": [80, 100, 99],
    "reasons": [0x01, 0x00, 0x00],
    "processes": [[], [], []],
    "energy": [1_000_000, 1_378_125],
}


class FakeNvml:
    """Answers from `script`, one value per reading; a reading past its end is an NVMLError."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = "sm", "memory", "temperature"

    def __init__(self, names=(H100,), era="Event", installed=True, **script):
        self.names, self.installed = names, installed
        self.script = {key: list(values) for key, values in (STEADY | script).items()}
        self.watched = set()  # the devices whose counters were read
        for end, bit in BITS.items():
            setattr(self, f"nvmlClocks{era}Reason{end}", bit)
        setattr(self, f"nvmlDeviceGetCurrentClocks{era}Reasons", self.next_of("reasons"))
        self.nvmlDeviceGetPowerUsage = self.next_of("power")
        self.nvmlDeviceGetTotalEnergyConsumption = self.next_of("energy")

    def answer(self, device, key):
        self.watched.add(device)
        if not self.script[key]:
            raise self.NVMLError(key)
        return self.script[key].pop(0)

    def next_of(self, key):
        return lambda device: self.answer(device, key)

    def used_up(self):
        return not any(values for key, values in self.script.items() if key != "energy")

    def nvmlInit(self):
        if not self.installed:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlSystemGetDriverVersion(self):
        return "580.95.05"

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.names):
            raise self.NVMLError("Invalid Argument")
        return f"GPU-{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return self.nvmlDeviceGetHandleByIndex(int(uuid.removeprefix("GPU-")))

    def nvmlDeviceGetName(self, device):
        return self.names[int(device.removeprefix("GPU-"))]

    def nvmlDeviceGetEnforcedPowerLimit(self, device):
        return 700_000

    def nvmlDeviceGetClockInfo(self, device, clock):
        return self.answer(device, clock)

    def nvmlDeviceGetTemperature(self, device, sensor):
        return self.answer(device, sensor)

    def nvmlDeviceGetUtilizationRates(self, device):
        return SimpleNamespace(gpu=self.answer(device, "utilisation"), memory=1)

    def nvmlDeviceGetComputeRunningProcesses(self, device):
        return [SimpleNamespace(pid=pid) for pid in self.answer(device, "processes")]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


@pytest.fixture
def family():
    """A child and its grandchild, both alive, neither doing anything."""
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    yield child.pid, int(child.stdout.readline())
    os.killpg(child.pid, 9)
    child.wait()
    child.stdout.close()


def watch(nvml, **options):
    return GpuWatch(
        **{"device_type": "cuda", "name": H100, "interval_s": 0.002} | options, nvml=nvml
    )


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "gpu-watch"]


def window_of(nvml, child_pid=NOBODY, **options):
    """The summary of a window that is as long as the script."""
    gpu = watch(nvml, **options)
    gpu.start(child_pid)
    assert all(thread.daemon for thread in threads())
    deadline = time.perf_counter() + 2
    while threads() and not nvml.used_up() and time.perf_counter() < deadline:
        time.sleep(0.002)
    window = gpu.stop()
    assert not threads()
    return window


def test_a_steady_window_is_summed_up():
    nvml = FakeNvml()
    assert watch(nvml).facts() == {"driver": "580.95.05", "power_limit_w": 700.0}
    window = window_of(nvml)
    assert nvml.used_up()
    assert window == {
        "sm_clock_mhz": 1965,
        "memory_clock_mhz": 2619,
        "temperature_c": 66,
        "power_w": 630.0,
        "utilisation": 0.93,
        "energy_j": 378.125,
        "clock_event_reasons": [],
        "throttled": False,
        "other_processes": None,
    }
    assert disturbance(window) is None


@pytest.mark.parametrize(
    ("counter", "lost"),
    [
        ("sm", {"sm_clock_mhz"}),
        ("memory", {"memory_clock_mhz"}),
        ("temperature", {"temperature_c"}),
        ("power", {"power_w"}),
        ("utilisation", {"utilisation"}),
        ("energy", {"energy_j"}),
        ("reasons", {"clock_event_reasons", "throttled"}),
        ("processes", {"other_processes"}),
    ],
)
def test_a_counter_that_fails_is_none_and_the_others_stand(family, counter, lost):
    window = window_of(FakeNvml(**{"processes": [[family[0]]], counter: []}), family[0])
    assert {key for key, value in window.items() if value is None} == lost


def test_a_counter_that_fails_once_keeps_its_other_readings():
    nvml = FakeNvml(power=[600_000, 700_000], reasons=[0x04])
    window = window_of(nvml)
    assert (window["power_w"], window["clock_event_reasons"]) == (650.0, ["sw_power_cap"])


def test_facts_that_fail_are_none():
    nvml = FakeNvml()

    def fail(*arguments):
        raise nvml.NVMLError("Not Supported")

    nvml.nvmlSystemGetDriverVersion = nvml.nvmlDeviceGetEnforcedPowerLimit = fail
    assert watch(nvml).facts() == {"driver": None, "power_limit_w": None}


def test_a_pynvml_without_a_function_is_no_error():
    nvml = FakeNvml()
    del nvml.nvmlDeviceGetTotalEnergyConsumption
    window = window_of(nvml)
    assert window["energy_j"] is None
    assert window["power_w"] == 630.0


@pytest.mark.parametrize("energy", [[5_000, 5_000], [5_000, 4_000], [5_000]])
def test_an_energy_counter_that_stands_begins_again_or_fails_tells_nothing(energy):
    assert window_of(FakeNvml(energy=energy))["energy_j"] is None


@pytest.mark.parametrize("era", ["Event", "Throttle"])
@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x20, ["sw_thermal_slowdown"]),
        (0x48, ["hw_slowdown", "hw_thermal_slowdown"]),
        (0x80, ["hw_power_brake"]),
    ],
)
def test_throttling_is_seen_if_it_happens_once(era, bits, names):
    window = window_of(FakeNvml(era=era, reasons=[0x00, bits | 0x04, 0x01]))
    assert window["clock_event_reasons"] == sorted([*names, "sw_power_cap"])
    assert window["throttled"] is True
    assert disturbance(window) == f"the GPU throttled ({', '.join(names)})"


@pytest.mark.parametrize("era", ["Event", "Throttle"])
def test_the_power_cap_is_not_throttling(era):
    window = window_of(FakeNvml(era=era, reasons=[0x04, 0x05, 0x12]))
    names = ["applications_clocks_setting", "sw_power_cap", "sync_boost"]
    assert window["clock_event_reasons"] == names
    assert window["throttled"] is False
    assert disturbance(window) is None


def test_the_child_and_its_descendants_are_not_others(family):
    child, grandchild = family
    window = window_of(FakeNvml(processes=[[], [child], [child, grandchild]]), child)
    assert window["other_processes"] == 0
    assert disturbance(window) is None


@pytest.mark.parametrize("member", [0, 1])
def test_another_process_is_counted_once_beside_the_child_or_a_descendant(family, member):
    ours, other = family[member], os.getpid()
    window = window_of(FakeNvml(processes=[[other], [ours, other], [ours, NOBODY]]), family[0])
    assert window["other_processes"] == 2
    assert disturbance(window) == "another process used the GPU"


def test_the_hosts_process_ids_are_not_judged(family):
    window = window_of(FakeNvml(processes=[[NOBODY], [NOBODY, NOBODY - 1]]), family[0])
    assert window["other_processes"] is None
    assert disturbance(window) is None


def test_both_disturbances_are_told(family):
    window = window_of(FakeNvml(processes=[[family[0], NOBODY]], reasons=[0x20]), family[0])
    told = "the GPU throttled (sw_thermal_slowdown); another process used the GPU"
    assert disturbance(window) == told


@pytest.mark.parametrize(
    ("nvml", "options"),
    [
        (FakeNvml(installed=False), {}),
        (FakeNvml(names=()), {}),
        (FakeNvml(), {"device_type": "cpu"}),
        (FakeNvml(), {"device_type": "mps"}),
        (FakeNvml(), {"name": "NVIDIA A100-SXM4-80GB"}),
        (FakeNvml(), {"name": ""}),
        (FakeNvml(), {"name": f"{H100} MIG 1g.10gb"}),
        (FakeNvml(), {"index": 1}),
    ],
    ids=["no NVML", "no GPU", "cpu", "mps", "another name", "no name", "MIG", "no such index"],
)
def test_a_watch_that_cannot_see_the_device_is_silent(nvml, options):
    assert watch(nvml, **options).facts() == {"driver": None, "power_limit_w": None}
    assert window_of(nvml, **options) == NOTHING
    assert nvml.watched == set()
    assert disturbance(NOTHING) is None
    assert low_utilisation(NOTHING, 0.5, 1) is None


def test_a_pynvml_that_is_not_installed_is_silence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # makes the import fail
    gpu = GpuWatch("cuda", H100)
    gpu.start(NOBODY)
    assert gpu.stop() == NOTHING


def test_without_a_fake_pynvml_itself_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert GpuWatch("cuda", H100).facts()["driver"] == "580.95.05"


@pytest.mark.parametrize(
    ("visible", "index", "device"),
    [
        (None, 0, "GPU-0"),
        (None, 2, "GPU-2"),
        ("2", 0, "GPU-2"),
        ("2, 1", 1, "GPU-1"),
        ("GPU-1", 0, "GPU-1"),
        ("GPU-2,GPU-0", 1, "GPU-0"),
        ("GPU-7", 0, None),
        ("0", 1, None),
        ("", 0, None),
        ("-1", 0, None),
        ("MIG-2", 0, None),
    ],
)
def test_the_device_is_the_one_that_cuda_shows(monkeypatch, visible, index, device):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml(names=(H100,) * 3)
    window = window_of(nvml, index=index)
    assert nvml.watched == ({device} if device else set())
    assert (window == NOTHING) == (device is None)


@pytest.mark.parametrize(("order", "seen"), [(None, False), ("PCI_BUS_ID", True)])
def test_unlike_gpus_are_told_apart_only_in_nvmls_order(monkeypatch, order, seen):
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    nvml = FakeNvml(names=(H100, "NVIDIA T400", H100))
    assert (window_of(nvml, index=2) != NOTHING) is seen
    assert nvml.watched == ({"GPU-2"} if seen else set())


def test_one_name_may_be_longer_than_the_other():
    assert window_of(FakeNvml(), name="NVIDIA H100")["power_w"] == 630.0
    assert window_of(FakeNvml(names=("H100",)), name="NVIDIA H100")["power_w"] == 630.0


def test_a_window_shorter_than_the_interval_has_energy_only():
    nvml = FakeNvml(energy=[1_000_000, 1_378_125, 2_000_000])
    gpu = watch(nvml, interval_s=60)
    assert gpu.stop() == NOTHING
    gpu.start(NOBODY)
    begin = time.perf_counter()
    assert gpu.stop() == NOTHING | {"energy_j": 378.125}
    assert time.perf_counter() - begin < 1  # does not sit out the interval
    assert gpu.stop() == NOTHING


def test_each_window_begins_anew():
    nvml = FakeNvml(reasons=[0x20], energy=[0, 1_000])
    gpu = watch(nvml, interval_s=0.002)
    gpu.start(NOBODY)
    while not nvml.used_up():
        time.sleep(0.002)
    assert gpu.stop()["throttled"] is True
    gpu.start(NOBODY)
    gpu.start(NOBODY)  # ends the one before it
    assert len(threads()) == 1
    assert gpu.stop() == NOTHING
    assert not threads()


@pytest.mark.parametrize(
    ("busy", "wait_share", "batch_size", "cause"),
    [
        (0.69, 0.25, 2, "waiting for data (25% of the time)"),
        (0.40, 0.10, 4, "the small batch (4)"),
        (0.40, 0.10, 5, "gaps between kernel launches"),
        (0.0, 0.0, 32, "gaps between kernel launches"),
        (0.70, 0.9, 1, None),
        (None, 0.9, 1, None),
    ],
)
def test_low_utilisation_names_the_likely_cause(busy, wait_share, batch_size, cause):
    told = low_utilisation(NOTHING | {"utilisation": busy}, wait_share, batch_size)
    if cause is None:
        assert told is None
    else:
        assert told.startswith(f"The GPU was busy only {busy:.0%} of the time;")
        assert told.endswith(f"is {cause}.")


@pytest.mark.parametrize("era", ["Event", "Throttle"])
def test_the_fake_is_named_as_pynvml_is(era):
    pynvml = pytest.importorskip("pynvml")
    nvml = FakeNvml(era=era)
    for name in [name for name in dir(nvml) if name.lower().startswith("nvml")]:
        assert hasattr(pynvml, name)
    assert {end: getattr(pynvml, f"nvmlClocks{era}Reason{end}") for end in BITS} == BITS

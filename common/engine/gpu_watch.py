"""Watch an NVIDIA GPU from the runner while a child times its steps.

NVML answers without a CUDA context, so the watch takes no device memory and does not run in the
measured process. What cannot be read is None, never 0. Units: https://docs.nvidia.com/deploy/nvml-api
"""

import os
import threading
from collections import defaultdict
from statistics import fmean, median

import psutil

SUMMARIES = {
    "sm_clock_mhz": median,
    "memory_clock_mhz": median,
    "temperature_c": max,
    "power_w": fmean,
    "utilisation": fmean,  # share of the time in which any kernel ran, however small
}
WINDOW = (*SUMMARIES, "energy_j", "clock_event_reasons", "throttled", "other_processes")
# how NVML's constants end. GpuIdle is left out: it says nothing that utilisation does not
REASONS = {
    "applications_clocks_setting": "ApplicationsClocksSetting",
    "hw_power_brake": "HwPowerBrakeSlowdown",
    "hw_slowdown": "HwSlowdown",
    "hw_thermal_slowdown": "HwThermalSlowdown",
    "sw_power_cap": "SwPowerCap",
    "sw_thermal_slowdown": "SwThermalSlowdown",
    "sync_boost": "SyncBoost",
}
# Not sw_power_cap: holding the clock at the power limit is how a GPU under full load normally runs,
# and happens again in every run. Heat and an emergency brake depend on the room and the hour.
THROTTLES = {"hw_power_brake", "hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown"}
JOIN_S = 2.0  # a driver that hangs must not hang the runner


class GpuWatch:
    """Reads one GPU's counters every `interval_s` seconds between `start` and `stop`.

    Silent (every value None) without an NVIDIA GPU, without NVML, and where it is not certain
    which of NVML's devices torch means. `name` and `index` are torch's.
    """

    def __init__(
        self, device_type: str, name: str, index: int = 0, interval_s: float = 0.2, nvml=None
    ) -> None:
        self.interval_s = interval_s
        self.nvml = _load(nvml) if device_type == "cuda" else None
        self.handle = _find(self.nvml, name, index) if self.nvml else None
        self.window: _Window | None = None

    def facts(self) -> dict:
        """The driver's version and the power limit in watts. They hold for the whole run."""
        if self.handle is None:
            return {"driver": None, "power_limit_w": None}
        limit_w = _read_milli(self.nvml, "nvmlDeviceGetEnforcedPowerLimit", self.handle)
        return {"driver": _read(self.nvml, "nvmlSystemGetDriverVersion"), "power_limit_w": limit_w}

    def start(self, child_pid: int) -> None:
        """Begin a window; `child_pid` is the process that is measured."""
        self.stop()
        if self.handle is not None:
            self.window = _Window(self.nvml, self.handle, child_pid, self.interval_s)

    def stop(self) -> dict:
        """End the window: what was read in it, under the names in WINDOW."""
        window, self.window = self.window, None
        return window.close() if window else dict.fromkeys(WINDOW)


class _Window:
    """One window. Its thread waits before it reads: utilisation and power look back up to 1 s."""

    def __init__(self, nvml, handle, child_pid: int, interval_s: float) -> None:
        self.nvml, self.handle = nvml, handle
        self.child_pid, self.interval_s = child_pid, interval_s
        self.readings: dict[str, list[float]] = defaultdict(list)
        self.reasons: set[str] | None = None
        self.ours: dict[int, bool] = {}  # process id: the child, or started by it?
        self.done = threading.Event()
        self.energy_j = _read_milli(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
        self.thread = threading.Thread(target=self.poll, name="gpu-watch", daemon=True)
        self.thread.start()

    def read(self, what: str, *arguments):
        return _read(self.nvml, f"nvmlDeviceGet{what}", self.handle, *arguments)

    def poll(self) -> None:
        while not self.done.wait(self.interval_s):
            self.sample()

    def sample(self) -> None:
        """Read everything once; what fails adds nothing."""
        rates = self.read("UtilizationRates")
        values = {
            "sm_clock_mhz": self.read("ClockInfo", self.nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self.read("ClockInfo", self.nvml.NVML_CLOCK_MEM),
            "temperature_c": self.read("Temperature", self.nvml.NVML_TEMPERATURE_GPU),
            "power_w": _read_milli(self.nvml, "nvmlDeviceGetPowerUsage", self.handle),
            "utilisation": None if rates is None else rates.gpu / 100,
        }
        for key, value in values.items():
            if value is not None:
                self.readings[key].append(value)
        bits = self.read("CurrentClocksEventReasons")
        if bits is None:  # its name before 2023
            bits = self.read("CurrentClocksThrottleReasons")
        if bits is not None:
            self.reasons = (self.reasons or set()) | _names(self.nvml, bits)
        for process in self.read("ComputeRunningProcesses") or ():
            if process.pid not in self.ours:
                self.ours[process.pid] = _descends(process.pid, self.child_pid)

    def close(self) -> dict:
        """Stop the thread and summarise."""
        # first of all: the thread may be inside a reading
        end_j = _read_milli(self.nvml, "nvmlDeviceGetTotalEnergyConsumption", self.handle)
        self.done.set()
        self.thread.join(JOIN_S)
        summary = dict.fromkeys(WINDOW)
        for key, summarise in SUMMARIES.items():
            if values := self.readings.get(key):
                summary[key] = round(summarise(values), 3)
        # a counter that stood still or began again tells nothing
        if None not in (self.energy_j, end_j) and end_j > self.energy_j:
            summary["energy_j"] = round(end_j - self.energy_j, 3)
        if (reasons := self.reasons) is not None:
            summary["clock_event_reasons"] = sorted(reasons)
            summary["throttled"] = bool(reasons & THROTTLES)
        # a container may be told the host's process ids: only a list with our own can be judged
        ours = list(self.ours.values())
        if any(ours):
            summary["other_processes"] = ours.count(False)
        return summary


def disturbance(window: dict) -> str | None:
    """What made the window a poor measurement, or None."""
    causes = []
    if window["throttled"]:
        seen = (name for name in window["clock_event_reasons"] if name in THROTTLES)
        causes.append(f"the GPU throttled ({', '.join(seen)})")
    if window["other_processes"]:
        causes.append("another process used the GPU")
    return "; ".join(causes) or None


def _load(nvml):
    """NVML, ready to be asked, or None."""
    if nvml is None:
        try:
            import pynvml as nvml  # package nvidia-ml-py; of use only beside an NVIDIA driver
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _read(nvml, function: str, *arguments):
    """What NVML answers; None if the driver, the device or this pynvml cannot tell."""
    try:
        return getattr(nvml, function)(*arguments) if hasattr(nvml, function) else None
    except nvml.NVMLError:
        return None


def _read_milli(nvml, function: str, handle) -> float | None:
    """The same for milliwatts and millijoules, in watts and joules."""
    value = _read(nvml, function, handle)
    return None if value is None else value / 1000


def _find(nvml, name: str, index: int):
    """NVML's handle of torch's device `index`, or None if it may be another one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(index)] * (index + 1) if visible is None else visible.split(",")
    entry = entries[index].strip() if index < len(entries) else ""
    handle = None
    if entry.startswith("GPU-"):
        handle = _read(nvml, "nvmlDeviceGetHandleByUUID", entry)
    elif entry.isdecimal() and _same_order(nvml):
        handle = _read(nvml, "nvmlDeviceGetHandleByIndex", int(entry))
    found = _read(nvml, "nvmlDeviceGetName", handle) if handle else None
    # a MIG slice bears its board's name, but power, clocks and energy are the whole board's
    if not name or not found or " MIG " in name:
        return None
    return handle if name in found or found in name else None


def _same_order(nvml) -> bool:
    """Whether CUDA's numbers are NVML's: CUDA puts the fastest device first unless told not to."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return True
    count = _read(nvml, "nvmlDeviceGetCount") or 0
    handles = [_read(nvml, "nvmlDeviceGetHandleByIndex", number) for number in range(count)]
    return len({_read(nvml, "nvmlDeviceGetName", handle) for handle in handles if handle}) <= 1


def _names(nvml, bits: int) -> set[str]:
    """Our names of the reasons in NVML's bit mask, whose constants have a new and an old name."""
    found = set()
    for name, end in REASONS.items():
        old = getattr(nvml, f"nvmlClocksThrottleReason{end}", 0)
        if bits & getattr(nvml, f"nvmlClocksEventReason{end}", old):
            found.add(name)
    return found


def _descends(pid: int, ancestor: int) -> bool:
    """Is `pid` the process `ancestor` or one that it started, directly or not?"""
    try:
        return pid == ancestor or ancestor in (p.pid for p in psutil.Process(pid).parents())
    except psutil.Error:
        return False

"""Who waits for whom: every rule, as a function from readings to one finding.

A rule that cannot judge says why. The recommendation is that of the largest expected gain.
"""

from dataclasses import replace

from common.diagnose.finding import ALARM, NOTE, OK, UNKNOWN, Finding, amdahl
from common.diagnose.readings import Readings
from common.diagnose.remedies import WORTH, data_remedy, gaps_remedy, small_batch

MIB = 2**20
BUSY = 0.70  # of the device, at least
WAIT = 0.10  # for data or for kernels: less is hardly worth the work
CORE_WAIT = 0.15  # one busy worker on two cores, as healthy as it can be, makes 8 to 11 %
OTHERS = 0.10  # of all cores' time; below it is the system's own work and its coarse clock
UNFED = "no DataLoader of torch's fed two steps or more"
OUTSIDE = "from outside it is not seen; start the training with: -- COMMAND"


def device(r: Readings) -> Finding:
    """Whether what trains is at work."""
    title = f"{r.name} busy"
    if r.busy is None:
        why = "NVML tells of NVIDIA's GPUs only" if r.device != "cpu" else "too short a watch"
        return unknown("device", title, BUSY, why, least=True)
    said = f"The {r.name} was busy {r.busy:.0%} of the time."
    if r.busy < BUSY:
        said = f"The {r.name} was busy only {r.busy:.0%} of the time{likely(r)}."
    return found("device", title, r.busy, BUSY, said, least=True)


def likely(r: Readings) -> str:
    """The likely cause of a device that is often idle, to be added to the sentence."""
    if r.data_wait is None:
        return ""
    cause = "gaps between kernel launches" if r.device != "cpu" else "too little work for its cores"
    if r.data_wait > WAIT:
        cause = f"waiting for data ({r.data_wait:.0%} of the time)"
    elif small_batch(r):
        cause = f"the small batch ({r.batch_size})"
    return f"; the likely cause is {cause}"


def data(r: Readings) -> Finding:
    """Whether the training waits for its batches."""
    title = "waiting for data"
    if r.data_wait is None:
        return unknown("data", title, WAIT, UNFED if r.inside else OUTSIDE)
    said = f"{r.data_wait:.1%} of the time went to waiting for data."
    hidden = r.device != "cpu" and r.busy is not None and r.busy > 1 / WORTH
    if hidden and r.data_wait > WAIT:
        said = f"{said[:-1]}, and the {r.name} worked on meanwhile."
        return noted("data", title, r.data_wait, WAIT, said)
    return found("data", title, r.data_wait, WAIT, said, data_remedy(r))


def gaps(r: Readings) -> Finding:
    """Whether the device is idle while no batch is waited for: inferred from two readings."""
    title = "idle, and not for data"
    if r.busy is None or r.data_wait is None:
        missing = "how busy the device was" if r.busy is None else "how long data was waited for"
        return unknown("gaps", title, WAIT, f"it takes {missing}")
    share = max(0.0, 1 - r.busy - r.data_wait)
    said = f"The {r.name} was idle for {share:.0%} of the time while no batch was waited for."
    if r.busy >= BUSY:  # enough, wherever the rest is
        return found("gaps", title, share, 1 - BUSY, said)
    return found("gaps", title, share, WAIT, said, gaps_remedy(r, share))


def core(r: Readings) -> Finding:
    """Whether the training is ready to go on, and other processes have the cores."""
    title = "waiting for a core"
    if r.core_wait is None:
        return unknown(
            "core", title, CORE_WAIT, "only Linux tells how long a thread waits for a core"
        )
    said = f"The training's main thread waited for a core {r.core_wait:.0%} of the time."
    full = r.workers is not None and r.cores is not None and r.workers >= r.cores
    if full or (r.others or 0) <= OTHERS:
        return found("core", title, r.core_wait, CORE_WAIT, said, core_remedy(r, full))
    return noted("core", title, r.core_wait, CORE_WAIT, f"{said[:-1]}: other programs had it.")


def core_remedy(r: Readings, full: bool) -> tuple[str, float | None, str]:
    """`full`: whether its own workers are as many as the cores."""
    reason = f"it waited for a core {r.core_wait:.0%} of the time"
    advice = "give torch fewer threads than there are cores: OMP_NUM_THREADS"
    if full:
        fewer = max(1, r.cores // r.processes - 1)
        advice = f"use fewer worker processes: num_workers={fewer}"
    return advice, amdahl(r.core_wait), reason


def workers(r: Readings) -> Finding:
    """Whether there are more worker processes than cores."""
    title, limit = "worker processes", r.cores or 0
    if r.workers is None or r.cores is None:
        return unknown("workers", title, limit, "no processes of a DataLoader were told apart")
    said = f"The training and {processes(r.workers)} share {r.cores} cores."
    if r.workers <= r.cores:
        return found("workers", title, r.workers, limit, said)
    fewer = max(1, r.cores // r.processes)
    advice = f"use no more workers than there are cores: num_workers={fewer}"
    gain = amdahl(r.core_wait) if r.core_wait else None
    reason = f"the training waited for a core {r.core_wait:.0%} of the time" if gain else ""
    return found("workers", title, r.workers, limit, said, (advice, gain, reason))


def memory(r: Readings) -> Finding:
    """Whether the workers' memory grows for as long as they are watched."""
    title, growth = "workers' growth, MiB/min", r.growth
    if growth is None:
        why = "no workers" if r.workers == 0 else "no worker was there for long enough"
        return unknown("memory", title, 0, why)
    rate = growth.bytes_per_s * 60 / MIB
    if not rate:
        return found("memory", title, 0, 0, "No worker's memory grew steadily.")
    minutes = growth.free / growth.bytes_per_s / 60
    said = (
        f"The memory of {processes(growth.growing)} grew by {rate:,.0f} MiB a minute; at that rate "
        f"the {growth.free / 2**30:,.1f} GiB that are free last {lasting(minutes)}."
    )
    advice = (
        "keep nothing from sample to sample, and hold large lists of Python objects as arrays or "
        "tensors, whose pages workers share"
    )
    return found("memory", title, rate, 0, said, (advice, None, ""))


def processes(count: int) -> str:
    return f"{count} worker process" if count == 1 else f"{count} worker processes"


def lasting(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 2880 else f"{minutes / 1440:.0f} days"


def others(r: Readings) -> Finding:
    """What other programs took. That is no fault of the training's: a note, never an alarm."""
    title = "other programs' cores"
    if r.others is None:
        return unknown("others", title, OTHERS, "the system does not tell")
    said = f"Other programs took {r.others:.0%} of all cores' time."
    return noted("others", title, r.others, OTHERS, said)


RULES = (device, data, gaps, core, workers, memory, others)


def diagnose(readings: Readings) -> list[Finding]:
    """One finding of each rule, in their order."""
    return [rule(readings) for rule in RULES]


def recommended(findings: list[Finding]) -> Finding | None:
    """The alarm with the largest expected gain, of those that say what to do; None without any.

    One that makes nothing faster (memory) comes after all that do.
    """
    alarms = [one for one in findings if one.verdict == ALARM and one.advice]
    return max(alarms, key=lambda one: one.gain or 0.0, default=None)


def found(
    name: str,
    title: str,
    value: float,
    limit: float,
    sentence: str,
    remedy: tuple[str, float | None, str] = ("", None, ""),
    least: bool = False,
) -> Finding:
    """A finding whose value is known. `remedy`: advice, gain, and its reason, if it is an alarm."""
    alarm = value < limit if least else value > limit
    advice, gain, reason = remedy if alarm else ("", None, "")
    return Finding(
        name=name,
        title=title,
        verdict=ALARM if alarm else OK,
        value=value,
        limit=limit,
        sentence=sentence,
        least=least,
        advice=advice,
        gain=gain,
        reason=reason,
    )


def noted(name: str, title: str, value: float, limit: float, sentence: str) -> Finding:
    """A finding that is the machine's, and no fault of the training's: never an alarm."""
    one = found(name, title, value, limit, sentence)
    return replace(one, verdict=NOTE) if one.verdict == ALARM else one


def unknown(name: str, title: str, limit: float, why: str, least: bool = False) -> Finding:
    return Finding(
        name=name,
        title=title,
        verdict=UNKNOWN,
        value=None,
        limit=limit,
        sentence=f"{title}: not measured ({why}).",
        least=least,
    )

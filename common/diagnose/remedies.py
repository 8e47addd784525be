"""What to do about a wait, what it is worth at most, and what the cores allow of it."""

import math

from common.diagnose.finding import amdahl, times
from common.diagnose.readings import Readings

SMALL_BATCH = 4
WORTH = 1.1  # a gain that is smaller is no reason to add processes
OFTEN = 0.5  # a worker that has a core for half of the time computes; a rarer one waits
LESS_WORK = "make a sample with less work, or once and for all"

Remedy = tuple[str, float | None, str]  # advice, gain, and the gain's reason


def small_batch(r: Readings) -> bool:
    return r.batch_size is not None and r.batch_size <= SMALL_BATCH


def data_remedy(r: Readings) -> Remedy:
    """Where the wait for data is from, and what would end it."""
    wait = r.data_wait
    why = f"{wait:.0%} of the time went to waiting for data"
    if r.data_start and r.data_start > wait / 2 and not r.persistent:
        reason = f"starting workers took {r.data_start:.0%} of the time"
        return "keep the workers: persistent_workers=True", amdahl(r.data_start), reason
    gain, reason = beside(r, why)
    if gain < WORTH:
        return f"{spoken_cores(r)} busy already: {LESS_WORK}", amdahl(wait), why
    if r.loader_workers is None:
        return "make batches in the background", gain, reason
    wanted = wanted_workers(r)
    if wanted > r.loader_workers:
        where = "use more workers" if r.loader_workers else "make samples in worker processes"
        return f"{where}: num_workers={wanted}", gain, reason
    if r.workers_busy is not None and r.workers_busy < OFTEN:
        advice = (
            f"the workers compute only {r.workers_busy:.0%} of the time: keep what they wait for, "
            "files perhaps, in memory or on a faster disk"
        )
        return advice, amdahl(wait), why
    return LESS_WORK, amdahl(wait), why


def beside(r: Readings, why: str) -> tuple[float, str]:
    """The gain of making batches beside the training, not between its steps; and its reason.

    The work is not gone: what the device and the cores do already, they must do still.
    """
    device = r.busy if r.device != "cpu" and r.busy is not None else 0.0
    cores = r.cores_busy or 0.0
    left = max(1 - r.data_wait, device, cores)
    if left > 1 - r.data_wait:
        who = f"the {r.name} was" if device >= cores else spoken_cores(r)
        alone = times(amdahl(r.data_wait)).removeprefix("at most ")
        why += f" (without it: {alone}), but {who} busy for {left:.0%} of the time already"
    return 1 / max(left, 0.001), why


def spoken_cores(r: Readings) -> str:
    if r.cores is None:
        return "the cores were"
    return "the one core was" if r.cores == 1 else f"the {r.cores} cores were"


def wanted_workers(r: Readings) -> int:
    """So many that batches are made as fast as they are used, but no more than there are cores.

    A worker makes a batch in as long as the training process waits for one; beside that the
    training takes the rest of a step.
    """
    left = max(1 - r.data_wait, 0.01)
    made = r.loader_workers / left if r.loader_workers else r.data_wait / left
    most = math.inf if r.cores is None else r.cores // r.processes
    return max(1, min(math.ceil(made), most))


def gaps_remedy(r: Readings, share: float) -> Remedy:
    """What fills a device that is idle although its data is there."""
    gain, reason = amdahl(share), f"the {r.name} was idle {share:.0%} of the time, not for data"
    if r.device == "cpu":
        if r.threads and r.cores and r.threads * r.processes < r.cores:
            threads = r.cores // r.processes
            return f"give torch more threads: torch.set_num_threads({threads})", gain, reason
        return "give each step more work: a larger batch", gain, reason
    if small_batch(r):
        return f"use a batch larger than {r.batch_size}, if it fits", gain, reason
    advice = 'launch fewer kernels: torch.compile, with mode="reduce-overhead" for CUDA graphs'
    return advice, gain, reason

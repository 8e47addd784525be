"""What to do about a wait, what it is worth at most, and what the cores allow of it."""

import math

from common.diagnose.finding import amdahl, times
from common.diagnose.readings import Readings

SMALL_BATCH = 4
WORTH = 1.1  # a gain that is smaller is no reason to add processes
OFTEN = 0.5  # a worker that has a core for half of the time computes; a rarer one waits

Remedy = tuple[str, float | None, str]  # advice, gain, and the gain's reason


def small_batch(r: Readings) -> bool:
    return r.batch_size is not None and r.batch_size <= SMALL_BATCH


def data_remedy(r: Readings) -> Remedy:
    """Where the wait for data is from, and what would end it."""
    wait = r.data_wait
    if r.data_start and r.data_start > wait / 2 and not r.persistent:
        reason = f"starting workers took {r.data_start:.0%} of the time"
        return "keep the workers: persistent_workers=True", amdahl(r.data_start), reason
    gain, reason = beside(r)
    wanted = wanted_workers(r)
    if gain < WORTH or wanted <= (r.loader_workers or 0):
        why = f"{wait:.0%} of the time went to waiting for data"
        saturated = f"{spoken_cores(r)} busy already: " if gain < WORTH else ""
        return f"{saturated}make a sample with less work, or once and for all", amdahl(wait), why
    if r.loader_workers == 0:
        return f"make samples in worker processes: num_workers={wanted}", gain, reason
    if r.loader_workers is None:
        return "make batches in the background", gain, reason
    rarely = r.workers_busy is not None and r.workers_busy < OFTEN
    said = f"use more workers: num_workers={wanted}"
    if rarely:
        said += f" (they compute {r.workers_busy:.0%} of the time, and wait for files or locks)"
    return said, gain, reason


def beside(r: Readings) -> tuple[float, str]:
    """The gain of making batches beside the training, not between its steps.

    The work is not gone: what the device and the cores do already, they must do still.
    """
    device = r.busy if r.device != "cpu" and r.busy is not None else 0.0
    cores = r.cores_busy or 0.0
    left = max(1 - r.data_wait, device, cores)
    gain = 1 / max(left, 0.001)
    reason = f"{r.data_wait:.0%} of the time went to waiting for data"
    if left > 1 - r.data_wait:
        who = f"the {r.name} was" if device >= cores else f"{spoken_cores(r)}"
        whole = times(amdahl(r.data_wait))
        reason += f", which alone would give {whole}, but {who} busy {left:.0%} of it"
    return gain, reason


def spoken_cores(r: Readings) -> str:
    if r.cores is None:
        return "the cores were"
    return "the one core was" if r.cores == 1 else f"the {r.cores} cores were"


def wanted_workers(r: Readings) -> int:
    """So many that batches are made as fast as they are used, as far as the cores go.

    A worker makes a batch in as long as the training process waits for one; beside that the
    training takes the rest of a step. Workers that wait for files need no core each.
    """
    left = max(1 - r.data_wait, 0.01)
    if not r.loader_workers:  # the process makes them itself
        wanted = math.ceil(r.data_wait / left)
    else:
        wanted = math.ceil(r.loader_workers / left)
    if r.cores is None or (r.workers_busy is not None and r.workers_busy < OFTEN):
        return max(1, wanted)
    return max(1, min(wanted, r.cores // r.processes))


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

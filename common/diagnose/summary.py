"""From glances, tallies, and the GPU's stretches to readings."""

import os
import sys
from statistics import fmean, median

import psutil

from common.diagnose.gpu import GpuTimeline
from common.diagnose.readings import Growth, Readings
from common.diagnose.tallies import Tally
from common.diagnose.tree import Glance, Tree
from common.engine.device import allowed_cpus

LEAST_S = 1.0  # a shorter glance says little of processor time, which is counted in hundredths
LEAST_GLANCES, LEAST_WATCH_S = 12, 3.0  # at a worker, before anything is said of its memory
GROWN, GROWN_MIB = 0.05, 4  # of a worker's memory, and MiB, in the second half of the glances
MIB = 2**20


def summarise(
    tree: Tree, tallies: list[Tally], gpu: GpuTimeline | None, on_gpu: bool = False
) -> Readings:
    """What was read between the first and the last step, or all the time where none was seen.

    Of several processes that train, the one that waits for data most. `on_gpu`: a process has an
    NVIDIA GPU open, be it known which or not.
    """
    one = max(tallies, key=lambda each: each.data_wait or 0.0, default=None)
    glances = tree.glances if one is None else tree.within(one.begin, one.end)
    begin, end = (one.begin, one.end) if one else span(tree.glances)
    device = (one and one.device) or ("cuda" if gpu or on_gpu else "cpu")
    cores = allowed_cpus()
    own, others = of_cores(glances, cores)
    loader = one.loader if one else {}
    return Readings(
        seconds=end - begin if end > begin else None,
        steps=one.steps if one else None,
        device=device,
        busy=of_rest(own, others) if device == "cpu" else gpu and gpu.busy(begin, end),
        cores_busy=own,
        cores=cores,
        threads=one.threads if one else None,
        processes=max(1, len(tallies)),
        data_wait=one.data_wait if one else None,
        data_start=one.data_start if one else None,
        batch_size=loader.get("batch_size"),
        loader_workers=loader.get("workers"),
        persistent=loader.get("persistent"),
        workers=worker_count(glances, loader),
        workers_busy=worker_share(glances),
        core_wait=core_wait(glances, one.pid if one else None),
        others=others,
        growth=growth(glances),
    )


def span(glances: list[Glance]) -> tuple[float, float]:
    return (glances[0].at, glances[-1].at) if glances else (0.0, 0.0)


def of_cores(glances: list[Glance], cores: int) -> tuple[float | None, float | None]:
    """The tree's share of the time of its cores, and the share of all cores' that others took.

    The latter is not known where the training may use some of the machine's cores only.
    """
    begin, end = span(glances)
    if end - begin < LEAST_S:
        return None, None
    first, last = glances[0], glances[-1]
    own = last.cpu_s - first.cpu_s
    busy, whole = (after - before for after, before in zip(last.host, first.host, strict=True))
    others = None
    if cores == os.cpu_count() and whole > 0:
        others = min(1.0, max(0.0, (busy - own) / whole))
    return min(1.0, max(0.0, own / (end - begin) / cores)), others


def of_rest(own: float | None, others: float | None) -> float | None:
    """The tree's share of what others left of the cores: where they work it cannot have more."""
    if own is None:
        return None
    left = 1 - (others or 0.0)
    return min(1.0, own / left) if left > 0 else 1.0


def worker_count(glances: list[Glance], loader: dict) -> int | None:
    """The most workers that were there at once; the loader's where they cannot be told apart."""
    seen = max((len(glance.workers) for glance in glances), default=0)
    if seen or (glances and sys.platform == "linux" and not loader.get("workers")):
        return seen
    return loader.get("workers")


def worker_share(glances: list[Glance]) -> float | None:
    """The mean share of its time that a worker had a core, or was ready and had none."""
    shares = []
    for pid in {pid for glance in glances for pid in glance.workers}:
        there = [glance for glance in glances if pid in glance.workers]
        begin, end = span(there)
        if end - begin >= LEAST_S:
            first, last = (glance.workers[pid] for glance in (there[0], there[-1]))
            wanted = last.cpu_s - first.cpu_s + last.wait_s - first.wait_s
            shares.append(min(1.0, wanted / (end - begin)))
    return fmean(shares) if shares else None


def core_wait(glances: list[Glance], pid: int | None) -> float | None:
    """The share of the time that a process's main thread waited for a core.

    `pid`: None: the process, workers aside, that computed most.
    """
    begin, end = span(glances)
    if end - begin < LEAST_S:
        return None
    if pid is None:
        pid = max(glances[-1].spent, key=glances[-1].spent.get, default=None)
    waits = [glance.core_wait[pid] for glance in glances if pid in glance.core_wait]
    return min(1.0, (waits[-1] - waits[0]) / (end - begin)) if len(waits) > 1 else None


def growth(glances: list[Glance]) -> Growth | None:
    """Whose memory grew through all of the second half of the glances: the first may be warm-up."""
    rates, judged = [], 0
    for pid in {pid for glance in glances for pid in glance.workers}:
        seen = [(k.at, k.workers[pid].own_bytes) for k in glances if pid in k.workers]
        seen = [(at, size) for at, size in seen if size is not None]
        if len(seen) >= LEAST_GLANCES and seen[-1][0] - seen[0][0] >= LEAST_WATCH_S:
            judged += 1
            rates.append(rate_of(seen[len(seen) // 2 :]))
    if not judged:
        return None
    growing = [rate for rate in rates if rate]
    free = psutil.virtual_memory().available
    return Growth(bytes_per_s=sum(growing), growing=len(growing), free=free)


def rate_of(seen: list[tuple[float, int]]) -> float:
    """Bytes a second, if each third of the glances has more than the one before it; else 0."""
    third = len(seen) // 3
    parts = [seen[:third], seen[third:-third], seen[-third:]]
    first, middle, last = (median(size for _, size in part) for part in parts)
    if not first < middle < last or last - first < max(GROWN * first, GROWN_MIB * MIB):
        return 0.0
    middle_s = [median(at for at, _ in part) for part in (parts[0], parts[2])]
    return (last - first) / (middle_s[1] - middle_s[0])

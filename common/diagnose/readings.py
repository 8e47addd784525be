"""What was read of a training, by whichever means; the rules know nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the memory of worker processes changed. Bytes, and seconds."""

    bytes_per_s: float  # of all workers together; 0: of none did it grow steadily
    growing: int  # workers
    free: int  # bytes that the machine has left


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Shares are of the watched time, 0 to 1. None: not measured, which is never 0."""

    inside: bool = False  # whether the program was started to be watched, and carries the tally
    seconds: float | None = None  # watched
    steps: int | None = None  # of optimizers, in that time
    device: str = "cpu"  # what trains: cpu, cuda, mps, xpu
    busy: float | None = None  # GPU: any kernel ran. CPU: of the cores' time that others left
    cores_busy: float | None = None  # of all the cores' time: the whole process tree
    cores: int | None = None  # that the training may use
    threads: int | None = None  # of torch, in the training process
    processes: int = 1  # that train
    data_wait: float | None = None  # of the training process: for the next batch
    data_start: float | None = None  # the part of it in which a loader started its workers
    batch_size: int | None = None
    loader_workers: int | None = None  # of the loader that was waited for; 0: the process itself
    persistent: bool | None = None  # whether that loader keeps its workers from epoch to epoch
    workers: int | None = None  # processes of all loaders
    workers_busy: float | None = None  # mean share of its time that a worker had or wanted a core
    core_wait: float | None = None  # the training's main thread was ready, and had no core
    others: float | None = None  # of all cores' time: other programs
    growth: Growth | None = None  # of the workers' memory

    @property
    def name(self) -> str:
        """The device, in a sentence."""
        return "CPU" if self.device == "cpu" else "GPU"

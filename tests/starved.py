"""A small training that is starved on purpose: python -m tests.starved HOW

Each way is told by `python -m steps.diagnose`; "healthy" is not starved.
"""

import os
import sys
import time
import warnings

import torch
from torch.utils.data import DataLoader, Dataset

SECONDS = 2.0
STEPS = 160  # of the one that grows: told after a dozen glances, however far apart
WIDTH, ROWS, LAYERS = 1024, 512, 3


class Samples(Dataset):
    """Rows of a constant, made in so many seconds of reading and of computing, or remembered."""

    def __init__(
        self, read_s: float = 0.0, seconds: float = 0.0, kept: int = 0, rows: int = 1
    ) -> None:
        self.read_s, self.seconds = read_s, seconds
        self.kept, self.rows, self.memory = kept, rows, []

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, place: int) -> torch.Tensor:
        time.sleep(self.read_s)  # from a slow disk, say
        compute(self.seconds)
        self.memory.append(list(range(place, place + self.kept)))
        return torch.full((self.rows, WIDTH), float(place % 7))


def compute(seconds: float) -> None:
    """Keep a core busy for so long, by this thread's own clock."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


CORES = os.cpu_count() or 1
WAYS = {  # how samples are made, how many are a batch, and by how many workers
    "main-process": (Samples(read_s=0.05), 2, 0),
    "slow-worker": (Samples(seconds=0.05), 2, 1),
    "many-workers": (Samples(seconds=0.002), 4, 2 * CORES + 1),
    "growing-worker": (Samples(kept=2000), 8, 1),
    "healthy": (Samples(rows=ROWS), 1, 1),
}


def train(how: str) -> int:
    """Train for a few seconds after the first step, which starts the workers. Returns the steps."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # torch sees it, too
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    steps, end, grows = 0, float("inf"), how == "growing-worker"
    samples, batch_size, workers = WAYS[how]
    for rows in DataLoader(samples, batch_size, num_workers=workers):  # (B, rows, C)
        model(rows).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        end = min(end, time.monotonic() + SECONDS)
        if steps == STEPS if grows else time.monotonic() > end:
            break
        if grows:
            time.sleep(0.02)  # its worker is to have a core
    return steps


if __name__ == "__main__":
    print(f"{train(sys.argv[1])} steps")
    sys.exit(7)

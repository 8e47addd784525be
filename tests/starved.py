"""A small training that is starved on purpose: python -m tests.starved HOW

Each way is told by `python -m steps.diagnose`; "healthy" is not starved. Trains for SECONDS.
"""

import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

SECONDS = 2.5
WIDTH, BATCH = 1024, 512


class Samples(Dataset):
    """Rows of noise, made in so many seconds of computing each; perhaps remembered."""

    def __init__(self, seconds: float = 0.0, kept: int = 0) -> None:
        self.seconds, self.kept, self.memory = seconds, kept, []

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, place: int) -> torch.Tensor:
        compute(self.seconds)
        self.memory.append(list(range(place, place + self.kept)))
        return torch.full((WIDTH,), float(place % 7))


def compute(seconds: float) -> None:
    """Keep a core busy for so long, by this thread's own clock."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


def loaders() -> dict[str, DataLoader]:
    cores = torch.multiprocessing.cpu_count()

    def loader(samples: Samples, workers: int, batch_size: int) -> DataLoader:
        return DataLoader(samples, batch_size, num_workers=workers)

    return {
        "main-process": loader(Samples(seconds=0.03), 0, 2),
        "slow-worker": loader(Samples(seconds=0.05), 1, 2),
        "many-workers": loader(Samples(seconds=0.002), 2 * cores + 1, 4),
        "growing-worker": loader(Samples(kept=2000), 1, 8),
        "healthy": loader(Samples(), 1, BATCH),
    }


def train(how: str) -> int:
    """Train for SECONDS after the first step, which starts the workers. Returns the steps."""
    torch.manual_seed(0)
    width = 1 if how == "growing-worker" else WIDTH  # that one's worker is to have a core
    model = torch.nn.Linear(WIDTH, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    steps, end = 0, float("inf")
    for rows in loaders()[how]:  # (B, C)
        model(rows).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        end = min(end, time.monotonic() + SECONDS)
        if time.monotonic() > end:
            break
        if how == "growing-worker":
            time.sleep(0.02)
    return steps


if __name__ == "__main__":
    print(f"{train(sys.argv[1])} steps")
    sys.exit(7)

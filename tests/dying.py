"""Sources of tokens whose worker does not live, or does not keep to what it is asked."""

import os
import signal

import numpy as np
from torch.utils.data import get_worker_info

from common.workloads.batches.plans import Shuffled
from common.workloads.batches.sources import Mapped


class Dying(Mapped):
    """Kills the worker that it is asked in."""

    def tokens(self, number: int) -> np.ndarray:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().tokens(number)


class Busy(Mapped):
    """Takes as long as a costly sample, on a core of its own."""

    def tokens(self, number: int) -> np.ndarray:
        for _ in range(10_000):
            pass
        return super().tokens(number)


class Forgetful(Shuffled):
    """Leaves out a document in the second epoch."""

    def epoch(self, random: np.random.Generator):
        batches = super().epoch(random)
        if self.epochs < 2:
            return batches
        return [batches[0][:-1] or batches[1], *batches[1:]]

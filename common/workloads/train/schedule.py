"""How the learning rate of an update follows from its number, in closed form.

A schedule has no state: whoever goes on from a checkpoint needs to know only how many updates were
made. It counts updates, in however many parts their batches come, and touches no other option of
the optimizer (torch's OneCycleLR also sets beta1, unless it is told not to).
"""

import math

import torch

FLOOR = 0.1  # of the peak, where a cosine ends: nanoGPT's min_lr


class Schedule:
    """The peak from the end of a linear rise on, if there is one."""

    usual_warmup: int | float = 0

    def __init__(self, updates: int, warmup: int | float = 0) -> None:
        """`updates`: in all. `warmup`: those of the rise; a float is their share of all."""
        self.updates = updates
        self.warmup = warmup * updates if isinstance(warmup, float) else warmup

    def factor(self, done: int) -> float:
        """The learning rate as a share of its peak, of the update after so many."""
        if done < self.warmup:
            return min(1.0, (done + 1) / self.warmup)
        return self.after_warmup(done)

    def after_warmup(self, done: int) -> float:
        return 1.0


class Constant(Schedule):
    """The peak, as it is."""


class Cosine(Schedule):
    """Half a cosine from the peak down to FLOOR of it; there it stays.

    Source: Loshchilov, Hutter 2017, SGDR, arXiv:1608.03983, without restarts; FLOOR is nanoGPT's.
    """

    def after_warmup(self, done: int) -> float:
        if done >= self.updates:
            return FLOOR
        return between(1.0, FLOOR, (done - self.warmup) / (self.updates - self.warmup))


class OneCycle(Schedule):
    """Half a cosine from 1/25 up to the peak, and half a one down to 1/250,000 of it.

    The same rates as torch.optim.lr_scheduler.OneCycleLR's, whose `pct_start` is the warm-up's
    share. Source: Smith, Topin 2018, Super-Convergence, arXiv:1708.07120.
    """

    usual_warmup = 0.3
    START, END = 1 / 25, 1 / 25 / 1e4

    def factor(self, done: int) -> float:
        top = self.warmup - 1  # the update with the peak; the last is updates - 1
        if done <= top:
            return between(self.START, 1.0, done / top if top else 1.0)
        if done >= self.updates:
            return self.END
        return between(1.0, self.END, (done - top) / (self.updates - 1 - top))


def between(begin: float, end: float, share: float) -> float:
    """From one to the other along half a cosine; `share`: 0 to 1 of the way."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2


class Rates:
    """Gives an optimizer the learning rate of each update."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.done = 0  # updates

    @property
    def now(self) -> float:
        """The first group's, of the update that is next."""
        return self.peaks[0] * self.schedule.factor(self.done)

    def next(self) -> None:
        """Another update begins."""
        factor = self.schedule.factor(self.done)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = factor * peak
        self.done += 1

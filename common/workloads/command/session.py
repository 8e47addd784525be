"""A command at work: a step is the time from one line that matches to the next."""

from collections.abc import Callable
from statistics import fmean, median

from common.engine import session
from common.engine.device import GIB
from common.engine.session import Timed
from common.workloads.command.program import Program
from common.workloads.command.recipe import CommandRecipe
from common.workloads.command.settings import Settings


class CommandSession(session.Session):
    """Its probes look at the program's processes."""

    def __init__(self, recipe: CommandRecipe, settings: Settings, program: Program) -> None:
        super().__init__(settings)
        self.recipe, self.program, self.seen = recipe, program, []

    def step(self) -> None:
        self.seen.append(self.program.next())

    def begin(self) -> None:
        self.faults = self.program.page_faults()

    def end(self) -> None:
        """What is read of processes, while they are there."""
        self.faults = self.program.page_faults() - self.faults
        self.peak_gib, self.threads = self.program.peak_bytes() / GIB, self.program.threads()

    def values(self, timed: Timed, tell: Callable[[str], None]) -> dict:
        """The rate is the printed number, or lines per second.

        A step's seconds are those from line to line, as they came: while processes are looked at,
        lines may wait to be read.
        """
        before, *seen = self.seen[-len(timed.step_s) - 1 :]
        pairs = zip([before, *seen], seen, strict=False)
        step_s = [one.at - last.at for last, one in pairs]
        losses = [one.loss for one in seen if one.loss is not None]
        printed = [one.rate for one in seen if one.rate is not None]
        return {
            "step_s": step_s,
            "window_s": sum(step_s),
            "rate": median(printed) if printed else 1 / median(step_s),
            "printed": bool(printed),
            "loss": fmean(losses) if losses else None,
            "first_line_s": self.seen[0].at - self.program.begun,
            # none where processes ended meanwhile, or the system does not tell
            "page_faults": self.faults / len(seen) if self.threads and self.faults >= 0 else None,
            "peak_resident_gib": self.peak_gib or None,
            "threads": self.threads or None,
        }

"""Jobs are given to children one at a time; what was disturbed is measured once more."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from common.engine.gpu_watch import GpuWatch, disturbance
from common.engine.job import Job
from common.engine.plan import Plan
from common.engine.process import Child, Outcome, run_job
from common.engine.watch import DeviceWatch, cpu_disturbance


class Display(Protocol):
    """What a climb tells the person who waits for it."""

    def begin(self, turn: int, series: str, number: int, name: str) -> None: ...

    def phase(self, text: str) -> None: ...

    def ready(self, turn: int, series: str, number: int) -> None: ...

    def budget(self, left_s: Callable[[], float]) -> None: ...

    def turning(self, done: int) -> None: ...

    def looked(self, unknown: int) -> None: ...

    def skip(self) -> None: ...

    def finish(self, record: dict) -> None: ...


@dataclass
class Children:
    """The processes of a climb."""

    plan: Plan
    display: Display
    seconds: float = 0.0  # in children so far

    def __post_init__(self) -> None:
        self.gpu = GpuWatch(self.plan.device.type, self.plan.device.name)

    def run(self, job: Job) -> Outcome:
        """The job's outcome; of a second try where the workload has a reason for one."""
        outcome = self.once(job)
        if not (note := job.workload.again(job.recipe, outcome)):
            return outcome
        self.display.phase(note)
        return replace(self.once(job), note=note)

    def once(self, job: Job) -> Outcome:
        outcome = run_job(job, self.plan.timeout, self.display.phase, DeviceWatch(self.gpu))
        self.seconds += outcome.wall_s
        return outcome

    def begin(self, job: Job, stack: ExitStack) -> Child:
        """A process that gets ready to take turns."""
        return stack.enter_context(Child(job, self.plan.timeout, self.display.phase))

    def ready(self, child: Child, job: Job, stack: ExitStack) -> tuple[Child, dict | None]:
        """The process, or a second one, once it is ready, and what it tells; None: it ended."""
        told = child.hear("ready")
        if told is None:
            self.seconds += child.wall_s
            if note := job.workload.again(job.recipe, child.outcome()):
                self.display.phase(note)
                child = self.begin(job, stack)
                told, child.note = child.hear("ready"), note
        return child, told

    def undisturbed(self, job: Job) -> tuple[Outcome, list[dict]]:
        """The job's outcome, after one more try if its timed steps were disturbed.

        Also what was discarded: reason and measurement of the first try.
        """
        outcome = self.run(job)
        reason = self.disturbed(outcome)
        if reason is None:
            return outcome, []
        self.display.phase(f"again: {reason}")
        discarded = [
            {"reason": reason, "measurement": outcome.measurement, "log": outcome.log_end()}
        ]
        outcome = self.run(job)
        if outcome.status == "disturbed":
            outcome.status = "failed"
            outcome.reason = f"disturbed twice: {outcome.reason}"
        return outcome, discarded

    def disturbed(self, outcome: Outcome) -> str | None:
        if outcome.status == "disturbed":
            return outcome.reason
        if outcome.status != "ok":
            return None
        if self.plan.device.type == "cpu":
            return cpu_disturbance(outcome.window, outcome.measurement.get("cpu_share"))
        return disturbance(outcome.window)

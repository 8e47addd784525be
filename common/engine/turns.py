"""Processes that take turns: each rung's is made ready, sleeps, and is woken for a few steps.

What else a machine does comes and goes within seconds and minutes. Steps of two rungs that follow
one another within a turn meet the same of it, so their ratio is known far more closely than either
rate. Asleep, a process waits for its pipe and takes no processor time.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from common.engine import stats
from common.engine.ahead import at_once, foreseen
from common.engine.gpu_watch import WINDOW
from common.engine.plan import LADDER, TWIN, Combination
from common.engine.process import Child, Outcome
from common.engine.watch import HostWatch

ROOM = 2.0  # as many times what the largest process holds must be free for another one
LEAST = 5  # turns: fewer say nothing of their own noise
# Of a process's steps in one turn, as a share of the budget: half a second of eight minutes. A step
# is as noisy as long ones are, so short steps are taken several at a time.
BLOCK = 1e-3
STEPS = 30  # of a twin in a generation: how they are weighed against its start


@dataclass
class Member:
    """A process that takes part."""

    series: str
    number: int
    combination: Combination
    child: Child
    begun_s: float  # waited until it was ready, without what only the first one checks
    warm_s: float  # of a step in its warm-up
    steps: int = 1  # in one turn
    turns: list[int] = field(default_factory=list)  # whose each of its steps was
    step_s: list[float] = field(default_factory=list)

    def take(self, turn: int) -> bool:
        """Whether it is still there."""
        step_s = self.child.ask(self.steps)
        if step_s is None:
            return False
        self.turns += [turn] * len(step_s)
        self.step_s += step_s
        return True

    def logs(self) -> dict[int, float]:
        """The logarithm of a step's seconds by turn."""
        steps: dict[int, list[float]] = {}
        for turn, seconds in zip(self.turns, self.step_s, strict=True):
            steps.setdefault(turn, []).append(seconds)
        return {turn: math.log(median(seconds)) for turn, seconds in steps.items()}


class Generation:
    """Every rung once, in fresh processes that take turns; its records.

    As many at once as memory allows. Where not all fit, groups follow one another, and one rung of
    the group before takes part in the next, too, so that all can be compared.
    """

    def __init__(self, climb, turn: int, more: Callable[["Generation", int], bool]) -> None:
        self.climb, self.turn, self.more = climb, turn, more
        self.plan, self.children, self.display = climb.plan, climb.children, climb.display
        self.ident = f"{climb.run_facts['run_id']}/{time.time():.3f}"
        self.records: list[dict] = []
        self.members: list[Member] = []
        self.starting: dict[str, Child] = {}  # before their turn to join, by their job
        self.before: list[Member] = []  # of the groups that are closed
        self.group, self.held_gib, self.free_gib = 1, 0.0, float("inf")
        self.twinned = self.interrupted = False
        self.turning_s, self.turns = 0.0, 0  # of the group at work
        self.awake: list[Member] = []  # who takes part in the next turn

    def run(self, jobs: Sequence[tuple[str, int]]) -> list[dict]:
        with contextlib.ExitStack() as self.processes:
            for place, (series, number) in enumerate(jobs):
                self.start_ahead(jobs[place:])
                self.join(series, number)
                if self.interrupted:  # while a group that had no room for this one took turns
                    break
            self.close()
        whole = [list(job) for job in jobs]
        return [record | {"generation": self.ident, "jobs": whole} for record in self.records]

    @property
    def begun_s(self) -> float:
        """What starting all of them took."""
        return sum(member.begun_s for member in (*self.before, *self.members))

    def join(self, series: str, number: int) -> None:
        """Make the rung's process ready, or note why there is none."""
        climb, key = self.climb, (series, number)
        self.display.begin(self.turn, series, number, self.plan.ladder.title(number))
        while True:
            combination = climb.combination(series, number)
            if combination is None:
                return self.display.skip()
            if combination.recipe is None:
                return self.keep(climb.record(self.turn, series, number, combination))
            if climb.workload.is_open(combination.recipe) and self.plan.device.type != "cpu":
                self.close()  # what is searched for may take the whole device
            outcome = climb.settled(series, number, combination)
            if outcome is None:
                if self.free_gib < ROOM * self.held_gib:
                    self.close()
                if self.interrupted:
                    return None
                if self.before and not self.members:
                    self.bridge(combination)
                outcome = self.begin(series, number, combination)
                if outcome is None:
                    return None
                if self.members and short_of_memory(outcome):
                    self.close()
                    continue
            if not climb.stack.leave_out(outcome, series, number):
                return self.keep(climb.conclude(self.turn, *key, combination, outcome))
            del climb.stack.combinations[key]

    def start_ahead(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Start those next in line beside one another, as far as cores and memory go.

        Nothing is timed while processes start. Their stack is foreseen: that of a rung which then
        does not hold what is below it to be is never asked for. What is to be tried first ends the
        line, since a try is timed.
        """
        if not self.members:
            return  # the first one tells of the memory
        room = self.free_gib / (ROOM * self.held_gib) if self.held_gib else math.inf
        for job in foreseen(self.climb, self.turn, jobs)[: at_once(self.plan.device, room)]:
            if (line := job.line()) not in self.starting:
                self.starting[line] = self.children.begin(job, self.processes)

    def begin(self, series: str, number: int, combination: Combination) -> Outcome | None:
        """Start a process and wait until it is ready; how it ended, if it did not get so far."""
        job = self.climb.job(self.turn, series, number, combination, turns=True)
        begun = self.starting.pop(job.line(), None) or self.children.begin(job, self.processes)
        child, told = self.children.ready(begun, job, self.processes)
        if told is None:
            return child.outcome()
        self.held_gib, self.free_gib = max(self.held_gib, told["held_gib"]), told["free_gib"]
        combination.checked = True
        begun_s = max(0.0, child.wall_s - told["check_s"])
        member = Member(series, number, combination, child, begun_s, told["warm_s"])
        self.members.append(member)
        self.display.ready(self.turn, series, number)
        return None

    def bridge(self, combination: Combination) -> None:
        """Start once more what the next rung is added to, or what was ready last."""
        below = combination.applied[:-1]
        whole = [one for one in self.before if one.series == LADDER]
        there = [one for one in whole if one.combination.applied == below] or whole[-1:]
        for one in there[-1:]:
            self.display.begin(
                self.turn, one.series, one.number, self.plan.ladder.title(one.number)
            )
            self.begin(one.series, one.number, one.combination)

    def twin(self) -> None:
        """Start one of the members once more: in a run's first generation, the cheapest."""
        found = [one for one in self.members if one.series == LADDER and self.may_twin(one)]
        if found and not self.twinned:
            one = min(found, key=lambda one: one.begun_s + STEPS * one.warm_s)
            self.display.begin(self.turn, TWIN, one.number, self.plan.ladder.title(one.number))
            self.twinned = self.begin(TWIN, one.number, one.combination) is None
            self.climb.twin = one.number if self.twinned else None

    def may_twin(self, one: Member) -> bool:
        known = self.climb.twin
        return one.number == known if known is not None else one.child.launch.processes == 1

    def close(self) -> None:
        """Let those that are ready take turns, and end them."""
        for child in self.starting.values():
            child.end()
        self.starting.clear()
        if not self.members:
            return
        self.twin()
        watch = HostWatch()
        watch.start(0)
        self.take_turns()
        window = watch.stop() | dict.fromkeys(WINDOW)
        # how they end is not timed, unless they profile then, or have a clock of their own
        at_once = self.plan.first is None and not self.climb.workload.times_its_end
        for member in self.members if at_once else ():
            member.child.dismiss()
        for member in self.members:
            if not at_once:
                member.child.dismiss()
            outcome = member.child.finish()
            outcome.window = window
            if outcome.status == "disturbed":
                outcome.status, outcome.reason = "failed", f"disturbed: {outcome.reason}"
            if outcome.status == "ok":
                # an interrupt may have left it with steps more, of which nobody was told
                steps = outcome.measurement["step_s"][: len(member.turns)]
                outcome.measurement |= {"turns": member.turns, "step_s": steps}
            self.children.seconds += member.child.wall_s
            where = (self.turn, member.series, member.number)
            record = self.climb.conclude(*where, member.combination, outcome)
            self.keep(record | {"begun_s": member.begun_s})
        self.before += self.members
        self.members, self.group, self.free_gib = [], self.group + 1, float("inf")

    def take_turns(self) -> None:
        """In another order each time. An interrupt ends them, and what was measured is kept."""
        shuffled = random.Random(f"{self.turn} {self.group}")
        begin, self.turns, self.turning_s = time.perf_counter(), 0, 0.0
        self.awake = list(self.members)
        try:
            while self.more(self, self.turns) and self.awake:
                shuffled.shuffle(self.awake)
                self.awake = [member for member in self.awake if member.take(self.turns)]
                self.turns += 1
                if self.turns == 2 and self.plan.turns.steps is None:
                    for member in self.awake:
                        block_s = BLOCK * self.plan.turns.budget_s
                        member.steps = max(1, round(block_s / min(member.step_s)))
                self.turning_s = time.perf_counter() - begin
        except KeyboardInterrupt:
            if self.turns < LEAST:
                raise
            self.interrupted = True

    def error(self) -> float:
        """How badly the ratio of one rung to the next is known from this group's turns."""
        logs = [member.logs() for member in self.members if member.child.result is None]
        pairs = zip(logs, logs[1:], strict=False)
        parts = (stats.from_turns([a[t] - b[t] for t in a.keys() & b.keys()]) for a, b in pairs)
        return max((part.error or math.inf for part in parts), default=0.0)

    def keep(self, record: dict) -> None:
        self.records.append(record | {"group": self.group})
        self.display.finish(self.records[-1])


def short_of_memory(outcome: Outcome) -> bool:
    """Whether it may have room where fewer processes are."""
    return outcome.status == "oom" or "want of memory" in outcome.reason

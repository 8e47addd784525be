"""How long turns are taken: one generation after another, until gains are known or time is up."""

import time

from common.engine.gains import Gains
from common.engine.kept import KEPT
from common.engine.plan import TWIN
from common.engine.turns import LEAST, Generation

FIRST, MOST = 3, 4  # generations: the table is looked at after the first of these, and after each
LOOKS = MOST - FIRST + 1
ENDING_S = 1.0  # for a process to end after its last step


class Looks:
    """The generations of one run.

    After a look only those rungs take part again of which a gain is not known closely enough,
    with what they are compared with. Whether to go on is decided by looking at the table, which
    could find by luck what is not there: verdicts are made sure for as many looks as there may be.
    """

    def __init__(self, climb, turns) -> None:
        self.climb, self.clock, self.begin_s = climb, turns, time.perf_counter()
        self.before_s = max((r.get("spent_s", 0.0) for r in climb.done.values()), default=0.0)
        self.jobs = climb.plan.jobs()

    @property
    def spent_s(self) -> float:
        """Of the budget, which an interrupted run and what goes on with it share."""
        return self.before_s + time.perf_counter() - self.begin_s

    def run(self) -> None:
        for turn in range(1, MOST + 1):
            self.turn = turn
            if not self.kept():
                generation = Generation(self.climb, turn, self.more)
                for record in generation.run(self.jobs):
                    self.climb.append(record | {"spent_s": self.spent_s})
                if generation.interrupted:
                    raise KeyboardInterrupt
            if turn >= FIRST and not self.again():
                return

    def kept(self) -> bool:
        """Whether an earlier run left this generation whole, and it still stands."""
        climb = self.climb
        found = [record for (turn, *_), record in climb.done.items() if turn == self.turn]
        there = {(record["series"], record["rung"]) for record in found}
        wanted = {tuple(job) for record in found for job in record["jobs"]}
        if not found or not wanted <= there or any(r["status"] not in KEPT for r in found):
            return False
        for record in found:
            if record["series"] == TWIN:
                climb.twin = record["rung"]
            elif not climb.recall(record):
                return False
            climb.display.finish(record)
        return True

    def again(self) -> bool:
        """Look at the table: whether to go on, and with which rungs."""
        gains = Gains(self.climb.known, self.climb.workload.headline)
        unknown = gains.undecided(self.clock.resolution)
        last = {}
        for (_, series, number), record in self.climb.done.items():
            last[series, number] = record
        named = {(job, gains.key(record)) for job, record in last.items()}
        self.jobs = [job for job in self.jobs if any((job, key) in named for key in unknown)]
        begun_s = sum(last[job].get("begun_s", 0.0) for job in self.jobs)
        turn_s = sum(self.turn_s(last[job]) for job in self.jobs)
        self.climb.display.looked(len(unknown), self.left_s)
        if self.clock.steps is not None:
            return bool(self.jobs)
        return bool(self.jobs) and self.left_s > begun_s + LEAST * turn_s

    @staticmethod
    def turn_s(record: dict) -> float:
        """What one turn of the rung takes."""
        measured = record["measurement"]
        return measured["window_s"] / (1 + measured["turns"][-1]) if measured else 0.0

    @property
    def left_s(self) -> float:
        return self.clock.budget_s - self.spent_s

    def more(self, generation: Generation, done: int) -> bool:
        """Whether the group at work takes another turn."""
        self.climb.display.turning(done, self.left_s)
        if self.clock.steps is not None:
            return done < self.clock.steps
        if done < LEAST:
            return True
        turn_s = generation.turning_s / done
        members = generation.members
        left_s = self.left_s + generation.turning_s - ENDING_S * len(members)
        ahead = MOST - self.turn
        # fewer and longer generations, where time is too short for as many
        needed = max(0, FIRST - self.turn)
        while ahead > needed and self.each(left_s, ahead, generation) < LEAST * turn_s:
            ahead -= 1
        part = min(1.0, len(members) / len(self.jobs))
        return generation.turning_s + turn_s / 2 < part * self.each(left_s, ahead, generation)

    @staticmethod
    def each(left_s: float, ahead: int, generation: Generation) -> float:
        """Seconds of turns for this generation and each of those ahead, which must start first."""
        return (left_s - ahead * generation.begun_s) / (ahead + 1)

"""How long turns are taken: one generation after another, until gains are known or time is up."""

import time

from common.engine.gains import Gains
from common.engine.kept import KEPT
from common.engine.plan import TWIN
from common.engine.turns import LEAST, Generation

GENERATIONS = 3
ENOUGH = 2  # of them for verdicts: one more than these begins only if the budget has time for it
PARTS = {1: 4, 2: 3, 3: 1}  # into how many a generation divides the time that is left, for one
LOOKS = 2  # at the table: half-way through the last generation, and at its end
ENDING_S = 1.0  # for a process to end after its last step
# as a share of the resolution, an error of the ratios in one generation that is small enough: of
# three such, an interval for a dozen rungs together is about as wide as the resolution
CLOSE = 0.4


class Looks:
    """The generations of one run.

    Half-way through the last one the table is looked at: those rungs whose gains are known closely
    enough sleep on, and where all are known the run ends. Whoever looks may find by luck what is
    not there, so verdicts are made sure for as many looks as there are.
    """

    def __init__(self, climb, turns) -> None:
        self.climb, self.clock, self.begin_s = climb, turns, time.perf_counter()
        self.before_s = max((r.get("spent_s", 0.0) for r in climb.done.values()), default=0.0)
        self.jobs, self.looked = climb.plan.jobs(), False
        if turns.steps is None:
            climb.display.budget(lambda: self.left_s)

    @property
    def spent_s(self) -> float:
        """Of the budget, which an interrupted run and what goes on with it share."""
        return self.before_s + time.perf_counter() - self.begin_s

    def run(self) -> None:
        for self.turn in range(1, GENERATIONS + 1):
            if self.kept():
                continue
            if self.turn > ENOUGH and self.left_s < self.start_s and self.clock.steps is None:
                return
            generation = Generation(self.climb, self.turn, self.more)
            for record in generation.run(self.jobs):
                self.climb.append(record | {"spent_s": self.spent_s})
            if generation.interrupted:
                raise KeyboardInterrupt

    @property
    def start_s(self) -> float:
        """What starting the generation before took."""
        before = (r for (turn, *_), r in self.climb.done.items() if turn == self.turn - 1)
        return sum(record.get("begun_s", 0.0) for record in before)

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

    def unknown(self, records: list[dict]) -> set[tuple]:
        """Who is in a gain that is not known closely enough, these records counted in."""
        gains = Gains([*self.climb.known, *records], self.climb.workload.headline)
        return gains.undecided(self.clock.resolution)

    @property
    def left_s(self) -> float:
        return self.clock.budget_s - self.spent_s

    def more(self, generation: Generation, done: int) -> bool:
        """Whether the group at work takes another turn."""
        self.climb.display.turning(done)
        if self.clock.steps is not None:
            return done < self.clock.steps
        if done < LEAST:
            return True
        last = self.turn == GENERATIONS
        whole = len(generation.members) >= len(self.jobs)
        members, close = len(generation.members), CLOSE * self.clock.resolution
        enough = done % LEAST == 0 and generation.error() <= close
        ahead = GENERATIONS - self.turn
        left_s = self.left_s + generation.turning_s - ENDING_S * members * (1 + ahead)
        part_s = (left_s - ahead * generation.begun_s) / PARTS[self.turn]
        part_s *= min(1.0, members / len(self.jobs))
        next_s = generation.turning_s * (1 + 0.5 / done)  # to the middle of the next turn
        if last and whole and not self.looked and (enough or next_s > part_s / 2):
            return self.look(generation)
        return next_s < part_s and not (enough and not last)

    def look(self, generation: Generation) -> bool:
        """Only those go on of whom the table does not know enough. Whether there are any."""
        self.looked, records = True, self.so_far(generation)
        unknown = self.unknown([*records.values()])
        keys = {id(member): Gains.key(records[id(member)]) for member in generation.members}
        generation.awake = [one for one in generation.awake if keys[id(one)] in unknown]
        self.climb.display.looked(len(unknown))
        return bool(generation.awake)

    def so_far(self, generation: Generation) -> dict[int, dict]:
        """Records as the members' will be, by member: those of before with the steps since."""
        found = {}
        for member in generation.members:
            before = self.climb.done[1, member.series, member.number]
            measured = before["measurement"] | {"turns": member.turns, "step_s": member.step_s}
            about = {"round": self.turn, "group": generation.group, "generation": generation.ident}
            found[id(member)] = before | about | {"measurement": measured}
        return found

"""What a person sees while the ladder is climbed: rich in a terminal, plain lines elsewhere."""

import time
from statistics import median

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from common.engine.rungs import shown
from common.engine.stats import percent
from common.engine.workload import Workload
from common.report.tables import progress_line


class Display:
    """Shows the rung at work, each finished one as a line, and the time that is left."""

    def __init__(self, total: int, rounds: int = 1, workload: Workload | None = None) -> None:
        self.workload = workload  # what a finished line shows; None: only that it is finished
        self.console = Console(highlight=False, soft_wrap=True)
        self.left, self.rounds, self.seconds = total, rounds, []
        self.turn, self.begun, self.title = 0, 0.0, ""
        self.finished = 0
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("starting", left="")

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self.progress.stop()

    def begin(self, turn: int, series: str, number: int, name: str) -> None:
        if turn != self.turn and self.rounds == 0:
            self.say(f"generation {turn}: each rung in a fresh process")
        elif turn != self.turn and self.rounds > 1:
            ahead = f", {self.time_left()}" if self.time_left() else ""
            self.say(f"round {turn} of {self.rounds}{ahead}")
        self.turn, self.begun = turn, time.perf_counter()
        self.title = f"{shown(number)}  {name}" + ("" if series == "ladder" else f" ({series})")
        self.progress.reset(self.task, description=self.title, left=self.time_left())

    def phase(self, text: str) -> None:
        self.progress.update(self.task, description=f"{self.title}: {text}")

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def ready(self, turn: int, series: str, number: int) -> None:
        """A process is ready to take turns."""
        took = time.perf_counter() - self.begun
        if turn == 1:
            number, _, name = self.title.partition("  ")
            self.say(f"{number:>2} {name:<30} ready after {took:.0f} s")

    def turning(self, done: int, left_s: float) -> None:
        """The processes take turns; `done`: how many they have taken."""
        if done == 0:
            self.say("taking turns" + (f", {at_most(left_s)}" if left_s > 0 else ""))
        self.progress.update(self.task, description=f"turn {done + 1}", left=at_most(left_s))

    def looked(self, unknown: int, left_s: float) -> None:
        """The table was looked at; of so many rungs a gain is not known closely enough."""
        self.say(f"half-way: {unknown} rung(s) take part in what is left, {at_most(left_s)}")

    def ended(self, unknown: int, resolution: float) -> None:
        """All turns are taken."""
        known = f"known to {percent(resolution)}"
        more = f"{unknown} rung(s) are not {known}: a longer --budget tells more"
        self.say(more if unknown else f"every gain is told, or {known}")

    def skip(self) -> None:
        """The rung said all it had to say in an earlier round."""
        self.left -= 1

    def finish(self, record: dict) -> None:
        """Print the rung's line, with the time left behind it where no live line shows it."""
        self.left -= 1
        self.finished += 1
        if record["wall_s"] and (took := time.perf_counter() - self.begun) > 0.5:
            self.seconds.append(took)
        if record.get("group") and record["round"] > 1 and record["status"] == "ok":
            return  # its figures come with those of the others
        of_series = "" if record["series"] == "ladder" else f" ({record['series']})"
        self.say(progress_line(record, self.workload) + of_series)
        if not self.console.is_terminal and self.finished % 4 == 0 and self.time_left():
            self.say(f"   {self.time_left()}")

    def time_left(self) -> str:
        """An estimate from the rungs so far; empty before the first and at the end.

        From their median: a rung that tries candidates takes several times as long, but only once.
        """
        if not self.seconds or self.left <= 0 or not self.rounds:  # turns: a budget tells
            return ""
        left = self.left * median(self.seconds)
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"


def at_most(seconds: float) -> str:
    """What is left of a budget."""
    if seconds < 1:
        return "no time left"
    return f"at most {seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"

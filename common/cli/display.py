"""What a person sees while the ladder is climbed: rich in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from common.cli.time_left import TimeLeft
from common.engine.plan import Plan
from common.engine.rungs import shown
from common.report.tables import WIDTH, progress_line

EVERY = 4  # finished lines: how often the time left stands among them where no line is live


class Live(ProgressColumn):
    """A text that is asked for anew each time that the line is drawn."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self.text = text

    def render(self, task) -> Text:
        return Text(self.text())


class Screen(Console):
    """Does not end the process by itself when nobody reads: see quiet_when_unread."""

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled


class Display:
    """Shows the rung at work, each finished one as a line, and the time that is left."""

    def __init__(self, plan: Plan, of_all: Callable[[float], float] | None = None) -> None:
        """`of_all`: from the seconds left of this plan to those left of all, if it is not alone."""
        self.of_all = of_all
        self.plan, self.workload = plan, plan.ladder.workload
        self.console = Screen(highlight=False, soft_wrap=True)
        self.in_rounds = TimeLeft([(turn, (s, n)) for turn, s, n in plan.schedule()])
        self.turn, self.what, self.begun, self.title = 0, ("", 0), 0.0, ""
        self.left_s: Callable[[], float] | None = None  # of a budget
        self.finished = 0
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            Live(self.time_left),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("starting")

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self.progress.stop()

    def begin(self, turn: int, series: str, number: int, name: str) -> None:
        if turn != self.turn:
            left = self.time_left()
            ahead = f", {left}" if left else ""
            if self.plan.turns:
                self.say(f"generation {turn}: each rung in a fresh process{ahead}")
            elif self.plan.rounds > 1:
                self.say(f"round {turn} of {self.plan.rounds}{ahead}")
        self.turn, self.what, self.begun = turn, (series, number), time.perf_counter()
        self.title = f"{shown(number)}  {name}" + ("" if series == "ladder" else f" ({series})")
        self.progress.reset(self.task, description=self.title)

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

    def budget(self, left_s: Callable[[], float]) -> None:
        """There is one, and so much is left of it."""
        self.left_s = left_s

    def turning(self, done: int) -> None:
        """The processes take turns; `done`: how many they have taken."""
        if done == 0:
            left = self.time_left()
            self.say("taking turns" + (f", {left}" if left else ""))
        self.progress.update(self.task, description=f"turn {done + 1}")

    def looked(self, unknown: int) -> None:
        """The table was looked at; of so many rungs a gain is not known closely enough."""
        ahead = f"{unknown} rung(s) go on, {self.time_left()}"
        self.say(f"half-way: {ahead if unknown else 'every gain is known'}")

    def skip(self) -> None:
        """The rung said all it had to say in an earlier round."""
        self.in_rounds.end(self.what, None)

    def finish(self, record: dict) -> None:
        """Print the rung's line, with the time left behind it where no live line shows it."""
        self.finished += 1
        seconds = record["wall_s"] if record["status"] == "ok" else None
        self.in_rounds.end((record["series"], record["rung"]), seconds)
        self.begun = time.perf_counter()  # what is next has not begun
        if record.get("group") and record["round"] > 1 and record["status"] == "ok":
            return  # its figures come with those of the others
        of_series = "" if record["series"] == "ladder" else f" ({record['series']})"
        line = progress_line(record, self.workload)[: WIDTH - len(of_series)]
        self.say(line.rstrip() + of_series)
        quiet = self.plan.turns is not None or self.console.is_terminal
        if self.finished % EVERY == 0 and not quiet and (left := self.time_left()):
            self.say(f"   {left}")

    def time_left(self) -> str:
        """Where turns are taken the budget tells; else an estimate, empty until there is one."""
        if self.left_s:
            left, sure = max(0.0, self.left_s()), "at most"
        elif self.plan.turns:
            return ""
        else:
            left, sure = self.in_rounds.seconds(time.perf_counter() - self.begun), "about"
        if left is None:
            return ""
        text = f"{sure} {in_words(left)} left"
        if self.of_all is None:
            return text
        return f"{text} of this ladder, about {in_words(self.of_all(left))} of all"


def in_words(seconds: float) -> str:
    """A time that nobody needs to the second: "40 s", "3.5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"

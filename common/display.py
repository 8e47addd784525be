"""What a person sees while the ladder is climbed: rich in a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from common.table import text_line, to_frame


class Display:
    """Shows the rung at work, each finished one as a line, and the time that is left."""

    def __init__(self, total: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.total, self.seconds, self.records = total, [], []
        self.begun = time.perf_counter()
        self.title = ""
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

    def begin(self, number: int, name: str) -> None:
        self.begun = time.perf_counter()
        self.title = f"{number}  {name}"
        self.progress.reset(self.task, description=self.title, left=self.time_left())

    def phase(self, text: str) -> None:
        self.progress.update(self.task, description=f"{self.title}: {text}")

    def finish(self, record: dict) -> None:
        """Print the rung's line, with the time left behind it where no live line shows it."""
        if record["wall_s"]:
            self.seconds.append(time.perf_counter() - self.begun)
        else:
            self.total -= 1
        self.records.append(record)
        frame = to_frame(self.records)
        line = text_line(frame[frame["rung"] == record["rung"]].iloc[-1].to_dict())
        self.console.print(line, markup=False)
        if not self.console.is_terminal and (left := self.time_left()):
            self.console.print(f"   {left}", markup=False)

    def time_left(self) -> str:
        """An estimate from the mean of the rungs so far; empty before the first and at the end."""
        count = self.total - len(self.seconds)
        if not self.seconds or count <= 0:
            return ""
        left = count * sum(self.seconds) / len(self.seconds)
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"

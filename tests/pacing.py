"""A workload whose steps are waits, to see processes take turns. PACING names a folder to note in.

It holds a GiB, as it says, of as many as the file "gib" in the folder tells. A file "accelerator"
there makes it one that has an accelerator and cores for several starts at once.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from common.engine import ahead, session
from common.engine.device import allowed_cpus
from common.engine.ladder import Ladder
from common.engine.metric import HIGHER, Metric
from common.engine.options import whole
from common.engine.purpose import Purpose
from common.engine.workload import Planned, Workload
from tests.packing import rung


def accelerated() -> bool:
    return (Path(os.environ["PACING"]) / "accelerator").exists()


@dataclass(frozen=True)
class Pace:
    wait_s: float = 0.06
    tag: str = ""
    lasts: int = 1000  # steps, after which the process dies
    beside: int = 1000  # processes that may be there when it is built


class Pacing(session.Session):
    def __init__(self, recipe: Pace, settings) -> None:
        super().__init__(settings)
        self.recipe, self.folder, self.steps = recipe, Path(os.environ["PACING"]), 0
        (self.folder / f"alive-{os.getpid()}").touch()
        if accelerated():
            self.note("starts", "begins")
            time.sleep(0.5)
            self.note("starts", "ends")
        if self.alive() > recipe.beside:
            raise MemoryError("out of memory")

    def alive(self) -> int:
        pids = (int(path.name.partition("-")[2]) for path in self.folder.glob("alive-*"))
        return sum(map(psutil.pid_exists, pids))

    def step(self) -> None:
        self.steps += 1
        if self.steps > self.recipe.lasts:
            os._exit(3)
        time.sleep(self.recipe.wait_s)
        self.note("steps", os.getpid())

    def note(self, name: str, word) -> None:
        with (self.folder / name).open("a") as file:
            file.write(f"{word}\n")

    def room(self) -> tuple[float, float]:
        return 1.0, float((self.folder / "gib").read_text()) - self.alive()


@dataclass(frozen=True, kw_only=True)
class Paces(Workload):
    def options(self, parser) -> None:
        parser.add_argument("--steps", type=whole(1), metavar="N", help="timed steps")

    def plan(self, options) -> Planned:
        planned = super().plan(options)
        if not accelerated():
            return planned
        ahead.CORES_EACH = allowed_cpus() / 4
        return replace(planned, device=replace(planned.device, type="cuda", name="none"))

    def build(self, recipe, settings, place) -> Pacing:
        return Pacing(recipe, settings)


RATE = Metric(
    name="steps_per_s",
    title="steps/s",
    of=lambda record: len(record["measurement"]["step_s"]) / sum(record["measurement"]["step_s"]),
    better=HIGHER,
)
LADDER = Ladder(
    name="tests.pacing",
    purpose=Purpose(
        name={"en": "Pacing", "ja": "歩調"},
        about={"en": "Steps in a second.", "ja": "1 秒あたりの歩数。"},
    ),
    workload=Paces(address="tests.pacing:LADDER.workload", metrics=(RATE,), recipe=Pace),
    modules=(
        rung(1, "Twice as fast", wait_s=0.03),
        rung(2, "The same", tag="same"),
        rung(3, "Large", beside=3),
        rung(4, "Dies", lasts=6),
    ),
)

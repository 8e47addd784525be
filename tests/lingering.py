"""Pacing, with something to time after the steps. PACING names a folder to note in."""

import os
import time
from dataclasses import dataclass, replace

from tests import pacing


class Lingering(pacing.Pacing):
    def values(self, timed, tell) -> dict:
        for word in ("begins", "ends"):
            with (self.folder / "after").open("a") as file:
                file.write(f"{os.getpid()} {word}\n")
            time.sleep(0.1)
        return {}


@dataclass(frozen=True, kw_only=True)
class Lingers(pacing.Paces):
    times_its_end: bool = True

    def build(self, recipe, settings, place) -> Lingering:
        return Lingering(recipe, settings)


LADDER = replace(
    pacing.LADDER,
    name="tests.lingering",
    workload=Lingers(
        address="tests.lingering:LADDER.workload", metrics=(pacing.RATE,), recipe=pacing.Pace
    ),
)

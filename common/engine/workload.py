"""What a ladder measures: how it is planned, launched, built, checked, and shown.

A subclass says how. All that a workload may not need has a working default.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.engine.device import DeviceFacts, host_facts
from common.engine.machine import PROJECT, device_text, machine_facts, version_facts
from common.engine.metric import LOWER, SEEDS, Metric
from common.engine.session import Session, Settings

Writer = Callable[[Path], None]  # makes a file
EVENTS = "LADDER_EVENTS"  # the variable that names the pipe a child writes its events to
COMMANDS = (
    "commands-"  # with a rank behind it: the pipe beside it that a process reads its turns from
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a recipe's process, or processes, are started.

    The command is given its job as a line on stdin, or as its last argument where several
    processes that one command starts must all read it.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "common.engine.child")
    environment: dict[str, str] = field(default_factory=dict)  # set beside the user's own
    by_argument: bool = False
    processes: int = 1  # that the command starts

    def variables(self) -> dict[str, str]:
        """The whole environment; the project is found from every folder."""
        paths = filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | self.environment


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a workload makes of its options."""

    device: DeviceFacts
    recipe: Any  # without any rung
    settings: Settings
    preset: str = ""
    about: tuple[str, ...] = ()  # lines to begin with: what was chosen
    rounds: int = 2  # by default
    turns: bool = True  # by default on CPUs, instead of rounds
    budget_s: float | None = None  # of turns, by default; None: by the number of rungs
    first: Callable[[int], Settings] | None = None  # the first round's settings by rung, if others


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was declared, and how near the worst error came to the limit that follows from it."""

    claim: Any  # Numerics
    error: float  # relative, of the worst part of the answer
    where: str  # that part's name
    limit: float
    formats: tuple[str, ...] = ()  # number formats in which it was held to the claim

    def to_json(self) -> dict:
        """As records have it."""
        return asdict(self) | {"claim": self.claim.value, "formats": list(self.formats)}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Subclasses say how; an instance declares the metrics, of which the first is the headline."""

    address: str  # where a child process finds it: "module:NAME"
    metrics: tuple[Metric, ...]
    recipe: type = dict  # a frozen dataclass of plain values, else `load` and `dump` are overridden
    settings: type[Settings] = Settings
    measures_ceilings: bool = False  # once per run, by `ceilings`
    times_its_end: bool = False  # `Session.values` has a clock, too: processes end one by one
    tries_on_cpu: int = 2  # of each candidate; 1 where a process takes long to start
    near: float = 0.03  # a candidate's advantage over an earlier one that is no reason to prefer it

    # -- in reports --

    @property
    def headline(self) -> Metric:
        return self.metrics[0]

    def shown(self, *where: str) -> list[Metric]:
        """The metrics beside the headline that are shown there."""
        return [metric for metric in self.metrics[1:] if metric.shown in where]

    def stacks(self) -> dict[str, list[Metric]]:
        """Metrics that are drawn as one bar, by the bar's title."""
        found: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            if metric.stack:
                found.setdefault(metric.stack, []).append(metric)
        return found

    def describe(self, records: list[dict]) -> str:
        """What was measured on what, in one line."""
        return f"{device_text(records[0]['machine'])}, {records[0]['date']}"

    def notes(self, records: list[dict]) -> str:
        """How it was measured, in one line."""
        return f"{self.describe(records)}: `{records[0]['command']}`"

    def ceilings_text(self, records: list[dict]) -> str:
        """What the device does at best, in one line; empty where that is not measured."""
        return ""

    def warnings(self, record: dict) -> list[str]:
        """Sentences on a measurement that is not as it should be."""
        return []

    def advice(self, record: dict) -> list[str]:
        """Sentences on what to change, of a record whose memory ran out."""
        return []

    def given(self, records: list[dict]) -> dict:
        """What was worked on, which no setting tells: its hash, say, by name."""
        return {}

    def unlike(self, a: dict, b: dict) -> str:
        """Why the records of two runs cannot be compared at all; empty where they can."""
        return ""

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        """Files beside the ladder's own, by kind: a name, and what writes it to a path."""
        return {}

    def extra_text(self, records: list[dict], closely: bool) -> str:
        """What the terminal shows below the table; `closely`: see Planned.first."""
        return ""

    def rung_details(
        self, rounds: list[dict], before: list[dict]
    ) -> dict[str, list[tuple[str, str, str]]]:
        """More to say of a rung, from its records and those of what it adds to.

        By title: rows of a name, what it was before, and what it is after.
        """
        return {}

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        """Add the workload's own options."""

    def plan(self, options: Namespace) -> Planned:
        """What the options ask for. Raises UserError where they do not fit together."""
        return Planned(
            device=host_facts(), recipe=self.recipe(), settings=self.settings(), rounds=2
        )

    def facts(self, device: DeviceFacts) -> dict:
        """What the figures depend on: "machine" and "versions", of whatever computes."""
        return {"machine": machine_facts(device), "versions": version_facts()}

    def record_facts(self, recipe, settings: Settings, device: DeviceFacts) -> dict:
        """More about a rung, for its record; `recipe` is None where it has none."""
        return {}

    def of(self, recipe) -> "Workload":
        """What measures this recipe, where not all are measured alike."""
        return self

    def launch(self, recipe) -> Launch:
        return Launch()

    def again(self, recipe, outcome) -> str:
        """Why a failed job is worth a second try, which this call makes ready; empty: it is not."""
        return ""

    def seeded(self, settings: Settings, turn: int) -> Settings:
        """The settings of a round: where seeds repeat the headline, each round is one."""
        return replace(settings, seed=turn) if self.headline.noise == SEEDS else settings

    def prepare(self, plan):
        """The plan, with what must be known before any rung is measured. Raises UserError."""
        return plan

    # -- what measuring settles --

    def is_open(self, recipe) -> bool:
        """Whether the recipe leaves something open that `close` finds by trying."""
        return False

    def close(self, recipe, plan, trials) -> tuple[Any, str]:
        """The recipe with nothing left open, and a note. Raises Unsettled."""
        return recipe, ""

    def closed_as(self, recipe, other):
        """The recipe, with what it leaves open as in another one."""
        return recipe

    def briefly(self, settings: Settings) -> Settings:
        """The settings for a recipe that is only tried: without what its rate does not need."""
        return settings

    def rate(self, record: dict) -> float:
        """The headline of one measurement, higher for what is better."""
        value = self.headline.of(record)
        return 1 / value if self.headline.better == LOWER else value

    # -- in the process that measures --

    def dump(self, recipe) -> dict:
        """The recipe as plain values, for jobs and records."""
        return asdict(recipe)

    def load(self, values: dict):
        """The inverse of `dump`."""
        return self.recipe(**values)

    def recall(self, values: dict):
        """The same of what a file holds, which anybody may have written. Raises ValueError.

        A workload whose `load` imports what the values name must not do so here.
        """
        return self.load(values)

    def load_settings(self, values: dict) -> Settings:
        return self.settings(**values)

    @contextmanager
    def place(self, recipe, settings: Settings) -> Iterator[Any]:
        """Hold whatever the recipe runs on; `check` and `build` are given it."""
        yield None

    def check(self, recipe, against, settings: Settings, place) -> Check | None:
        """Compare the recipe with others. Raises NotEquivalent. See engine/job.py, Against."""
        return None

    def build(self, recipe, settings: Settings, place) -> Session:
        raise NotImplementedError

    def ceilings(self, recipe, settings: Settings) -> dict[str, float]:
        """What the device does at best."""
        return {}

"""All ladders, one after another, into one folder: python -m steps.run --ladder all

A ladder that cannot run or fails costs itself. What is whole is kept by --resume, and what is
measured of the others, too.
"""

import json
import math
import signal
import textwrap
import time
import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from common.cli.climbing import INTERRUPTED as INTERRUPTED_STATUS
from common.cli.climbing import Measured, count, measured
from common.cli.display import in_words
from common.cli.limit import interrupted_after
from common.cli.overview import read_all
from common.cli.planning import (
    ALL,
    SECONDS_EACH,
    Asked,
    all_parser,
    ask_all,
    list_rungs,
    make_plan,
    typed,
)
from common.cli.report import write
from common.cli.runs import new_folder, run_folders
from common.engine.contract import SKIPPED
from common.engine.errors import UserError, in_short
from common.engine.gains import latest
from common.engine.machine import commit_facts
from common.engine.metric import EXACT
from common.engine.options import writable_folder
from common.engine.plan import Plan
from common.engine.records import as_records_of, sole_writer
from common.engine.standing import (
    CUT,
    DONE,
    FAILED,
    INTERRUPTED,
    LEFT_OUT,
    REFUSED,
    WAITING,
    Standing,
    Standings,
)
from common.engine.workload import Planned
from common.report.ending import COMMAND, again
from common.report.overview import OfAll, recommended, to_overview

DRAWING = 0.1  # of a ladder's share of the budget, kept for its tables and pictures
LEAST_S = 5.0  # no ladder begins with less: a process alone takes as long to start


def main(arguments: list[str] | None) -> int:
    own, rest = all_parser().parse_known_args(arguments)
    asked = ask_all(rest)
    if own.list:
        for name, (ladder, _) in asked.items():
            print(f"\n{name}: {ladder.purpose.name['en']}")
            list_rungs(ladder)
        return 0
    with terminated_as_interrupted():
        name, plan, planned = first_plan(asked)
        stands = begin(own, facts_of(plan, rest), plan.device.name)
        folder, command = stands.folder, typed(arguments)
        with sole_writer(folder):
            run = Together(asked, stands, own.budget, {name: (plan, planned)})
            whole = sum(run.stands(name).status == DONE for name in asked)
            print(f"{folder}: {whole} of {len(asked)} ladders are whole. If stopped, go on with:")
            print(COMMAND + again(command, "--resume"), flush=True)  # a kill leaves no last word
            run.run()
            page = folder / "report.html"
            parts = read_all(folder, page)
            with as_records_of(folder):
                write(page, to_overview(parts))
                say_end(parts, page, command)
        if own.json:
            print(as_json(parts, page, run.interrupted))
    if run.interrupted:
        return INTERRUPTED_STATUS
    return int(any(part.standing.status in (FAILED, REFUSED) for part in parts))


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A `kill` is met as Ctrl-C is: what is measured is written, and how to go on is said."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def first_plan(asked: Asked) -> tuple[str, Plan, Planned]:
    """That of the first ladder that has one: all are of its device. Raises UserError if none has.

    What no ladder can do, with a device that is not there, say, is so said before a folder is made.
    """
    refusals = []
    for name, (ladder, options) in asked.items():
        try:
            return name, *make_plan(ladder, options)
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def facts_of(plan: Plan, rest: list[str]) -> dict:
    """What must be the same for whoever goes on with a run."""
    facts = plan.ladder.workload.facts(plan.device) | commit_facts() | {"options": rest}
    return json.loads(json.dumps(facts))  # as a file has them


def begin(own: Namespace, facts: dict, device: str) -> Standings:
    """A folder to write to, and how the ladders stand in it by now.

    --resume goes on with the latest run under the same facts. Raises UserError where --out holds
    another one: a page must not mix two.
    """
    if own.out is not None and Standings.there(writable_folder("--out", own.out)):
        found = Standings.read(own.out)
        if own.resume and found.facts == facts:
            return found
        which = "of other options, versions, or code" if own.resume else "--resume goes on with it"
        raise UserError(f"--out {own.out}: holds a run of all ladders ({which}); give another one")
    for folder in run_folders(ALL)[::-1] if own.resume and own.out is None else []:
        with suppress(UserError):  # not readable: then it is not gone on with
            if (found := Standings.read(folder)).facts == facts:
                return found
    return Standings(folder=own.out or new_folder(ALL, device), facts=facts)


@dataclass
class Together:
    """One run of all ladders."""

    asked: Asked
    standings: Standings
    budget_s: float | None
    planned: dict[str, tuple[Plan, Planned]]  # by name, where it is known already

    def __post_init__(self) -> None:
        self.begun, self.interrupted = time.monotonic(), False
        self.resumed = bool(self.standings.ladders)
        for name in self.asked:
            self.standings.ladders.setdefault(name, Standing())

    def stands(self, name: str) -> Standing:
        return self.standings.ladders[name]

    @property
    def ahead(self) -> list[str]:
        """The ladders that are not whole."""
        return [name for name in self.asked if self.stands(name).status not in (DONE, LEFT_OUT)]

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return (self.budget_s or math.inf) - (time.monotonic() - self.begun)

    def run(self) -> None:
        """Climb what is not whole, as long as the budget lasts. An interrupt ends it."""
        device = next(iter(self.planned.values()))[0].device
        for name, (ladder, _) in self.asked.items():
            if reason := ladder.purpose.left_out(device):
                self.standings.put(name, Standing(status=LEFT_OUT, reason=reason))
        todo = self.ahead
        for place, name in enumerate(todo):
            if self.left_s < LEAST_S:
                return
            left = in_words(self.expected_s(todo[place:]))
            print(f"\n== {name}: {place + 1} of {len(todo)}, about {left} left ==", flush=True)
            begin, before = time.monotonic(), self.stands(name)
            self.standings.put(name, replace(before, status=INTERRUPTED, reason=""))
            standing = self.guarded(name, todo[place + 1 :])
            spent = before.seconds + time.monotonic() - begin
            self.standings.put(name, replace(standing, seconds=round(spent, 1)))
            if standing.status == INTERRUPTED:
                self.interrupted = True
                return

    def guarded(self, name: str, behind: list[str]) -> Standing:
        """A ladder that cannot run, or fails, costs itself, not what comes after it."""
        try:
            return self.climb(name, behind)
        except KeyboardInterrupt:
            return Standing(status=INTERRUPTED)
        except UserError as error:
            print(f"{name}: {error}", flush=True)
            return Standing(status=REFUSED, reason=str(error))
        except Exception as error:  # of whatever library: the other ladders know nothing of it
            traceback.print_exc()
            return Standing(status=FAILED, reason=in_short(error))

    def climb(self, name: str, behind: list[str]) -> Standing:
        """Climb one ladder within its share of the budget, or go on with it."""
        share_s = self.left_s / (1 + len(behind))
        within = interrupted_after(share_s) if math.isfinite(share_s) else nullcontext()
        out, found = self.standings.folder / name, None
        with within as limit, sole_writer(writable_folder("--out", out)):
            plan, planned = self.planned.pop(name, None) or make_plan(*self.asked[name])
            if not self.asked[name][1].rounds:
                plan = replace(plan, rounds=enough(plan))
            own_s = (1 - DRAWING) * share_s
            if plan.turns and plan.turns.budget_s > own_s:
                plan = replace(plan, turns=replace(plan.turns, budget_s=own_s))
            of_all = partial(self.expected_s, behind)
            found = measured(plan, planned, out, self.resumed, of_all)
        if limit and limit.reached:
            return Standing(status=CUT)
        if found is None or found.interrupted:
            return Standing(status=INTERRUPTED)
        return ended(found)

    def expected_s(self, names: list[str], more_s: float = 0.0) -> float:
        """How long these ladders will take, by what a rung of the others took; and so much more."""
        whole = [name for name in self.asked if self.stands(name).status == DONE]
        rungs = sum(self.rungs(name) for name in whole)
        each_s = sum(self.stands(name).seconds for name in whole) / rungs if rungs else SECONDS_EACH
        return max(0.0, min(self.left_s, more_s + each_s * sum(map(self.rungs, names))))

    def rungs(self, name: str) -> int:
        """How many there are, with the foot."""
        return self.asked[name][0].top + 1


def enough(plan: Plan) -> int:
    """Rounds, where none are asked for: one tells no gain, and what is not told isn't recommended.

    A ladder by itself is content with one at `tiny`, to be over in three minutes.
    """
    exact = plan.ladder.workload.headline.noise == EXACT
    return plan.rounds if exact or plan.turns else max(2, plan.rounds)


def ended(found: Measured) -> Standing:
    """How a ladder stands of which every rung was tried."""
    records = latest(found.records)  # what failed was perhaps tried again
    counts = count(records)
    if counts["failed"]:
        bad = [record for record in records if record["status"] not in ("ok", SKIPPED)]
        names = ", ".join(dict.fromkeys(record["name"] for record in bad))
        return Standing(status=FAILED, reason=f"{names}; its report says why")
    if not counts["ok"]:
        return Standing(status=FAILED, reason="none of its rungs applies here")
    return Standing(status=DONE)


def say_end(parts: list[OfAll], page: Path, command: str) -> None:
    """The last lines: what to turn on, and how to go on where something is left."""
    print("\nWhat to turn on here:")
    for part in parts:
        print(textwrap.fill(recommended(part), 80, subsequent_indent="   "))
    statuses = {part.standing.status for part in parts}
    if statuses - {DONE, LEFT_OUT}:
        more = statuses & {CUT, INTERRUPTED, WAITING}
        print("Not all is measured. To go on:" if more else "To try again what failed:")
        print(COMMAND + again(command, "--resume"))
    print(f"Open {page}")


def as_json(parts: list[OfAll], page: Path, interrupted: bool) -> str:
    """Paths, how each ladder stands, and counts of its measurements."""
    ladders = {
        part.name: asdict(part.standing)
        | {"records": f"{page.parent / part.name / 'records.jsonl'}" if part.records else None}
        | count(latest(part.records))
        for part in parts
    }
    return json.dumps({"html": str(page), "ladders": ladders, "interrupted": interrupted})

"""One climb on behalf of a command: shown while it goes on, its results written and said."""

import os
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.cli.display import Display, in_words
from common.engine.climb import Climb
from common.engine.contract import SKIPPED
from common.engine.ladder import Ladder
from common.engine.plan import Plan
from common.engine.records import NoRecords, Records, as_records_of
from common.engine.rungs import called
from common.engine.stats import percent
from common.engine.workload import Planned
from common.report.attribution import attribution_text, to_attribution
from common.report.files import write_results
from common.report.frame import to_frame
from common.report.recommendation import recommendation_text
from common.report.tables import control, control_text, to_text

INTERRUPTED = 130  # 128 + SIGINT, as shells count
NOTHING = "interrupted before the first rung was finished; nothing was recorded"


@dataclass(frozen=True)
class Measured:
    """What came of a climb."""

    run: Climb
    records: list[dict]
    paths: dict[str, str]  # of the files that were written, by kind
    interrupted: bool

    @property
    def status(self) -> int:
        """As a command's exit status."""
        counts = count(self.records)
        return INTERRUPTED if self.interrupted else 1 if counts["failed"] or not counts["ok"] else 0

    def totals(self) -> dict:
        """For a line of JSON."""
        wall_s = time.time() - psutil.Process().create_time()  # with this process's own start-up
        return {
            "records": str(self.run.records.path),
            **self.paths,
            "wall_s": round(wall_s, 1),
            "runner_s": round(wall_s - self.run.children.seconds, 1),
            "control": control(self.records, self.run.workload),
            **count(self.records),
            "interrupted": self.interrupted,
        }


def measured(
    plan: Plan,
    planned: Planned,
    out: Path,
    resume: bool,
    of_all: Callable[[float], float] | None = None,
) -> Measured | None:
    """Climb, write the results, and show the table; None if nothing was recorded.

    `of_all`: see Display.
    """
    store, interrupted = Records(out / "records.jsonl"), False
    with Display(plan, of_all) as display:
        run = Climb(plan, store, display)
        preset = f"preset {plan.preset}, " if plan.preset else ""
        display.say(f"{plan.device.name}: {preset}{how(plan)}")
        for line in filter(None, planned.about):
            display.say(line)
        if resume:
            display.say(go_on(run))
        try:
            run.run()
        except KeyboardInterrupt:
            interrupted = True
    if not run.done:
        return None
    records = store.read(run.run_facts["run_id"])
    say_results(records, plan)
    return Measured(run, records, write_results(records, out, plan.ladder), interrupted)


def count(records: list[dict]) -> dict[str, int]:
    """How many measurements are well, were not to be made, and failed."""
    status = Counter(record["status"] for record in records)
    ok, skipped = status["ok"], status[SKIPPED]
    return {"ok": ok, SKIPPED: skipped, "failed": len(records) - ok - skipped}


def how(plan: Plan) -> str:
    if plan.turns is None:
        return f"{plan.rounds} round(s)"
    if plan.turns.steps is not None:
        return f"in turns of {plan.turns.steps} steps"
    known, most = percent(plan.turns.resolution), in_words(plan.turns.budget_s)
    return f"in turns, until gains are known to {known}, at most {most}"


def go_on(run: Climb) -> str:
    """Resume, and say what is kept; one command starts a run and goes on with it."""
    path = run.records.path
    try:
        if os.path.lexists(path):
            kept = run.resume()
            with as_records_of(path):  # or it would be found out after all the measuring
                _ = to_frame(run.known, run.workload) if kept else None
            if run.plan.turns:
                return f"resuming: {kept} measurements are kept"
            total = len(run.plan.jobs()) * run.plan.rounds
            return f"resuming: {kept} of {total} measurements are kept"
    except NoRecords:
        pass
    return f"nothing to resume in {path.parent}: starting afresh"


def say_results(records: list[dict], plan: Plan) -> None:
    """The table, and whatever else there is to say, in 80 columns."""
    workload = plan.ladder.workload
    print(f"\n{to_text(to_frame(records, workload), workload)}")
    if said := control_text(control(records, workload)):
        print(textwrap.fill(f"   {said}", 80, subsequent_indent="   "))
    if plan.alone or plan.without:
        print(f"\n{attribution_text(to_attribution(records, workload))}")
    if more := workload.extra_text(records, plan.first is not None):
        print(f"\n{more}")
    if plan.ladder.note:
        print(textwrap.fill(plan.ladder.note, 80, initial_indent="   ", subsequent_indent="   "))
    for line in recommendation_text(records, plan.ladder):
        print(line)
    for warning in warnings(records, plan.ladder):
        print(textwrap.fill(f"   warning: {warning}", 80, subsequent_indent="   "))


def warnings(records: list[dict], ladder: Ladder) -> list[str]:
    """Plain sentences on measurements that are not as they should be, each once."""
    found = {}
    for record in records:
        if record["status"] == "ok":
            disturbed = [record["note"]] if "disturbed" in record["note"] else []
            for text in (*ladder.workload.warnings(record), *disturbed):
                found[f"{called(record)}: {text}"] = None
    return list(found)

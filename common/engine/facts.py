"""What is the same in all records of a run."""

import shlex
from datetime import UTC, datetime

from common.engine.looks import LOOKS
from common.engine.machine import command_line, commit_facts, without_folders
from common.engine.plan import Plan
from common.engine.records import SCHEMA


def of_run(plan: Plan) -> dict:
    """What names this run, and how it was measured; none of it decides what --resume keeps."""
    now = datetime.now(UTC)
    return {
        "clock": plan.turns.to_json() | {"looks": LOOKS} if plan.turns else None,
        "run_id": now.strftime("%Y%m%dT%H%M%S.%fZ"),
        "date": now.date().isoformat(),
        "command": shlex.join(map(without_folders, command_line())),
    }


def of_measurements(plan: Plan, of_gpu: dict) -> dict:
    """A record is kept by --resume only where all of these are the same."""
    workload = plan.ladder.workload
    facts = workload.facts(plan.device)
    return {
        "schema": SCHEMA,
        "ladder": plan.ladder.name,
        "preset": plan.preset,
        "baseline": workload.dump(plan.baseline),
        "settings": plan.settings.recorded(),
        "machine": facts["machine"] | of_gpu,
        "versions": facts["versions"],
        **commit_facts(),
    }

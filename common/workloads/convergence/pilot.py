"""Before the climb: the foot is trained by each learning rate, and the target follows from it.

The pilot has a seed of its own, 0, that no round has, and is kept in the cache: whoever goes on
with a run, or repeats it, has the same target.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.engine.errors import UserError
from common.engine.job import Job
from common.engine.machine import cache_dir
from common.engine.plan import Plan
from common.engine.process import Outcome, run_job
from common.engine.records import is_file, write_atomically
from common.gpt.text import read_text
from common.workloads.convergence.curve import Point, loss_at

# Of the foot's tokens: its loss there is the target. Seeds differ by a tenth and more in where they
# reach a loss: at 0.9, most of the foot's own missed it at tiny, where the pilot's had been lucky
SHARE = 0.75
CODE = tuple(
    f"common.workloads.{name}"
    for name in ("convergence.pilot", "convergence.session", "train.build", "train.update")
)  # what trained it, and read the target off


def pilot(plan: Plan, say: Callable[[str], None], run: Callable[[Job, float], Outcome] = run_job):
    """What the pilot found: the first loss, by learning rate the last ones, and the best's target.

    {"first": nats, "final": {learning rate: nats or None}, "learning_rate": the best, "target":
    nats}. Raises UserError if it could not be trained.
    """
    path = cached(plan)
    if (found := read(path)) is not None:
        return found
    say("pilot: the foot by each of the learning rates, for the target")
    workload = plan.ladder.workload
    job = Job(workload=workload, recipe=plan.baseline, settings=plan.settings)
    outcome = run(job, plan.timeout)
    if outcome.status != "ok":
        raise UserError(f"the pilot, which trains the foot, failed: {outcome.reason}")
    found = summed_up(outcome.measurement["tuned"])
    with suppress(OSError):  # a cache that cannot be written costs another pilot, not the run
        write_atomically(path, json.dumps(found).encode())
    return found


def summed_up(tuned: dict[str, dict]) -> dict:
    final = {rate: one["final_loss"] for rate, one in tuned.items()}
    best = min(final, key=lambda rate: math.inf if final[rate] is None else final[rate])
    if final[best] is None:
        raise UserError("the pilot's loss is no number at any learning rate")
    curve = [Point(*point) for point in tuned[best]["curve"]]
    return {
        "first": curve[0].loss,
        "final": final,
        "learning_rate": float(best),
        "target": loss_at(curve, SHARE * curve[-1].tokens),
    }


def cached(plan: Plan) -> Path:
    """Where it is kept: by all that it depends on, and the code that trains."""
    workload, settings = plan.ladder.workload, plan.settings
    sources = (Path(sys.modules[name].__file__).read_bytes() for name in CODE)
    facts = {
        "recipe": workload.dump(plan.baseline),
        "settings": settings.to_json(),
        "facts": workload.facts(plan.device),
        "text": read_text(settings.text).sha256,
        "code": [hashlib.sha256(source).hexdigest() for source in sources],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_dir() / f"pilot-{key[:16]}.json"


def read(path: Path) -> dict | None:
    """The pilot in the cache; None where there is none, or it is damaged."""
    if not is_file(path):
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = {"first", "final", "learning_rate", "target"} <= found.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return found if whole else None

"""The process one rung is measured in: a job comes in on stdin, events go out on stdout.

One process per rung and repeat, so that TF32 mode, compile caches, and allocator peaks never leak
into the next. The process ends with its parent: it watches stdin, which the parent keeps open.
"""

import json
import os
import pkgutil
import signal
import sys
import threading
import traceback
from dataclasses import asdict

import torch

from common.ceilings import measure_ceilings
from common.compiler import forget_graphs
from common.device import out_of_memory
from common.engine.errors import UserError
from common.equivalence import NotEquivalent, check
from common.ladder import DoesNotApply, NotInEffect, rung_named
from common.measure import Disturbed, Settings, measure
from common.recipe import Numerics, Recipe


def main() -> None:
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=die_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like an event

    def report(phase: str) -> None:
        print(json.dumps({"phase": phase}), file=events)

    print(json.dumps(guarded(job, report)), file=events)


def do(job: dict, report) -> dict:
    return ceilings(job) if job["kind"] == "ceilings" else rung(job, report)


def guarded(job: dict, report, do=do) -> dict:
    """Do the job: its result with status "ok", or the status and reason of what stopped it."""
    try:
        return {"status": "ok", "reason": "", **do(job, report)}
    except DoesNotApply as error:
        return {"status": "n/a", "reason": str(error), "refuser": refuser(job, error)}
    except NotInEffect as error:
        return {"status": "failed", "reason": f"not in effect: {error}"}
    except NotEquivalent as error:
        return {"status": "failed", "reason": f"not equivalent: {error}"}
    except Disturbed as error:
        return {"status": "disturbed", "reason": str(error)}
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    except Exception as error:  # a rung that breaks costs its own row, whatever broke it
        traceback.print_exc()
        return {"status": "oom" if out_of_memory(error) else "failed", "reason": in_short(error)}


def refuser(job: dict, error: DoesNotApply) -> int | None:
    """The applied rung whose own code raised it; None where that was nobody's."""
    if not job.get("applied"):
        return None
    ladder = pkgutil.resolve_name(job["ladder"])
    numbers = {ladder.rung(number).__name__: number for number in job["applied"]}
    frames = traceback.walk_tb(error.__traceback__)
    raised_in = [frame.f_globals.get("__name__") for frame, _ in frames]
    return next((numbers[name] for name in reversed(raised_in) if name in numbers), None)


def ceilings(job: dict) -> dict:
    recipe, settings = Recipe.from_json(job["recipe"]), Settings.from_json(job["settings"])
    device = torch.device(settings.device)
    return {"ceilings": measure_ceilings(recipe, settings.shape, device, job["formats"])}


def rung(job: dict, report) -> dict:
    """Check the job's recipe, where the job says against what, and measure it."""
    probe = prober(job)
    recipe, settings = Recipe.from_json(job["recipe"]), Settings.from_json(job["settings"])
    result = {}
    if "check" in job:
        report("checking equivalence")
        against = job["check"]
        found = check(
            recipe,
            Recipe.from_json(against["below"]),
            Recipe.from_json(against["baseline"]),
            Numerics(against["numerics"]),
            torch.device(settings.device),
        )
        result["equivalence"] = found.to_json()
        forget_graphs()  # the small model's must not count as this one's
    return result | {"measurement": asdict(measure(recipe, settings, probe, report))}


def prober(job: dict):
    """What asks every applied rung whether its change took effect, by number.

    Those of a ladder that this one stands on are asked, too: by ladder and number, "steps 7". A
    rung all of whose fields a later one changed again is not asked.
    """
    rungs = {name: rung_named(name) for name in job.get("under", ())}
    ladder = pkgutil.resolve_name(job["ladder"]) if job["applied"] else None
    rungs |= {str(number): ladder.rung(number) for number in job["applied"]}

    def probe(run) -> dict[str, str]:
        found = {}
        for place, (name, rung) in enumerate(rungs.items(), start=1):
            later = {field for other in [*rungs.values()][place:] for field in other.CHANGES}
            if rung.CHANGES and later.issuperset(rung.CHANGES):
                continue  # nothing of it is left: what came in its place proves itself
            found[name] = rung.in_effect(run)
        return found

    return probe


def in_short(error: Exception) -> str:
    """The first line of an error, with its class, at most 200 characters."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


def die_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent's end closes, however the parent ended
    os.killpg(0, signal.SIGKILL)  # with inductor's compile workers; the parent made the group


if __name__ == "__main__":
    main()

"""The process one rung is measured in: a job comes in on stdin, events go out on a pipe.

One process per rung and round, so that modes, compile caches, and allocator peaks never leak into
the next. The process ends with its parent: it watches stdin, which the parent keeps open. Several
processes of one rung get the job as an argument and number themselves by RANK, as torchrun has
it; the first one reports.
"""

import json
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from common.engine.contract import SKIPPED, Disturbed, DoesNotApply, NotEquivalent, NotInEffect
from common.engine.errors import UserError, in_short, out_of_memory
from common.engine.job import Against
from common.engine.ladder import ladder_at, rung_named
from common.engine.measure import measure
from common.engine.session import Session
from common.engine.workload import COMMANDS, EVENTS, Workload


def main() -> None:
    several = len(sys.argv) > 1
    job = json.loads(sys.argv[1] if several else sys.stdin.buffer.readline())
    threading.Thread(target=die_with_parent, daemon=True).start()
    events = os.open(os.environ[EVENTS], os.O_WRONLY)
    first = not several or os.environ["RANK"] == "0"

    def send(event: dict) -> None:
        os.write(events, (json.dumps(event) + "\n").encode())  # one write: lines must not mix

    def answer(event: dict) -> None:
        if first:
            send(event)

    result = guarded(job, answer)
    if first or result["status"] != "ok":
        send(result)
    if several and result["status"] != "ok":
        time.sleep(1.0)  # let the first failure be read first
        sys.stderr.flush()
        os._exit(1)  # not by the interpreter's end, which can wait for the others for ever


class Asked:
    """The steps that the parent asks for, read from this process's own pipe; see turns.py."""

    def __init__(self, answer: Callable[[dict], None], check_s: float) -> None:
        rank = os.environ["RANK"] if len(sys.argv) > 1 else 0
        path = Path(os.environ[EVENTS]).with_name(f"{COMMANDS}{rank}")
        self.pipe, self.answer, self.check_s = path.open(), answer, check_s
        self.awake = False

    def wait(self, session: Session, warm_s: float) -> int:
        if not self.awake:
            held_gib, free_gib = session.room()
            about = {"check_s": self.check_s, "warm_s": warm_s}
            about |= {"held_gib": held_gib, "free_gib": free_gib}
            self.answer({"ready": about})
            self.awake = True
        return int(self.pipe.readline())

    def took(self, step_s: list[float]) -> None:
        self.answer({"block": step_s})


def guarded(job: dict, answer: Callable[[dict], None]) -> dict:
    """Do the job: its result with status "ok", or the status and reason of what stopped it."""
    try:
        return {"status": "ok", "reason": "", **do(job, answer)}
    except DoesNotApply as error:
        return {"status": SKIPPED, "reason": str(error), "refuser": refuser(job, error)}
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


def do(job: dict, answer: Callable[[dict], None]) -> dict:
    """Measure the ceilings; or check the recipe, where the job says against what, and time it."""

    def tell(phase: str) -> None:
        answer({"phase": phase})

    whole: Workload = pkgutil.resolve_name(job["workload"])
    recipe, settings = whole.load(job["recipe"]), whole.load_settings(job["settings"])
    if job["kind"] == "ceilings":
        return {"ceilings": whole.ceilings(recipe, settings)}
    workload, probe, result, begin = whole.of(recipe), prober(job), {}, time.perf_counter()
    with workload.place(recipe, settings) as place:
        if "check" in job:
            tell("checking equivalence")
            against = Against.from_json(job["check"], whole)
            found = workload.check(recipe, against, settings, place)
            result["equivalence"] = found.to_json() if found else {}
        turns = Asked(answer, time.perf_counter() - begin) if job["turns"] else None
        result["measurement"] = measure(
            lambda: workload.build(recipe, settings, place), settings, probe, tell, turns
        )
    return result


def refuser(job: dict, error: DoesNotApply) -> int | None:
    """The applied rung whose own code raised it; None where that was nobody's."""
    if not job.get("applied"):
        return None
    ladder = ladder_at(job["ladder"])
    numbers = {ladder.rung(number).module.__name__: number for number in job["applied"]}
    frames = traceback.walk_tb(error.__traceback__)
    raised_in = [frame.f_globals.get("__name__") for frame, _ in frames]
    return next((numbers[name] for name in reversed(raised_in) if name in numbers), None)


def prober(job: dict) -> Callable[[object], dict[str, str]]:
    """What asks every applied rung whether its change took effect, by number.

    Those of a ladder that this one stands on are asked, too: by ladder and number, "steps 7". A
    rung all of whose fields a later one changed again is not asked.
    """
    rungs = {name: rung_named(name) for name in job.get("under", ())}
    rungs |= {str(n): ladder_at(job["ladder"]).rung(n) for n in job["applied"]}

    def probe(run) -> dict[str, str]:
        found = {}
        for place, (name, rung) in enumerate(rungs.items(), start=1):
            later = {field for other in [*rungs.values()][place:] for field in other.changes}
            if rung.changes and later.issuperset(rung.changes):
                continue  # nothing of it is left: what came in its place proves itself
            found[name] = rung.in_effect(run)
        return found

    return probe


def die_with_parent() -> None:
    # ends when the parent's end closes, however the parent ended. Not by sys.stdin, whose lock this
    # thread would hold for ever: a forked process that closes its sys.stdin would wait for it
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)  # with inductor's compile workers; the parent made the group


if __name__ == "__main__":
    main()

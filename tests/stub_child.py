"""A child that answers at once with made-up figures: to test the runner, not the training.

An argument may name what goes wrong, a JSON list of rules: {"recipe": fields that it has,
"applied": a rung among the applied, "checked": only with the equivalence check, "answer": what is
sent instead, "log": what is written to stderr}. The last that fits counts.
"""

import json
import os
import sys
from pathlib import Path

job = json.loads(sys.stdin.readline())


def meant(rule: dict) -> bool:
    """Whether the job is one that the rule names."""
    return (
        job["kind"] == "rung"
        and job["recipe"].items() >= rule.get("recipe", {}).items()
        and rule.get("applied") in (None, *job["applied"])
        and (not rule.get("checked") or "check" in job)
    )


rules = [rule for rule in json.loads((sys.argv[1:] or ["[]"])[0]) if meant(rule)]
answer = {"status": "ok", "reason": "", "ceilings": {"float32": 1e9, "copy": 1e9}}
if job["kind"] == "rung":
    seconds = 0.05 if job["recipe"].get("loss_rows") == 256 else 0.1
    rungs = (*job.get("under", ()), *job["applied"])
    measurement = {
        "step_s": [seconds, seconds],
        "window_s": 0.2,
        "first_step_s": 0.1,
        "data_wait_s": 0.0,
        "losses": [3.0, 2.0],
        "tokens_per_step": 64,
        "peak_reserved_gib": 1.0,
        "peak_allocated_gib": None,
        "text_sha256": "0" * 64,
        "text_source": "made up",
        "in_effect": {str(number): "yes" for number in rungs},
    }
    if "stages" in job["recipe"]:  # several processes
        held = dict.fromkeys(("parameters", "gradients", "optimizer", "activations"), 1 << 20)
        measurement["parallel"] = {"processes": 1, "threads": 1, "bubble": None}
        measurement["parallel"] |= {"memory_bytes": held, "sent_bytes": {}}
    answer = {"status": "ok", "reason": "", "measurement": measurement}
for rule in rules:
    answer = rule["answer"]
    print(rule.get("log", ""), file=sys.stderr, flush=True)
with Path(os.environ["LADDER_EVENTS"]).open("w") as events:
    for phase in ("timing", "timed"):
        print(json.dumps({"phase": phase}), file=events, flush=True)
    print(json.dumps(answer), file=events, flush=True)

"""Records of an earlier run that a resumed climb need not measure again.

They are read from a file, which anybody may have written: a recipe is taken from one only where
the rungs of this ladder make the same.
"""

from typing import Any

from common.engine.contract import SKIPPED
from common.engine.errors import UserError
from common.engine.plan import Combination
from common.engine.records import WRONG, Records
from common.engine.rungs import REFERENCE
from common.engine.settle import best
from common.engine.stack import Stack
from common.engine.workload import Workload

KEPT = ("ok", SKIPPED)  # statuses that --resume does not measure again
SHAPE = {  # of what a kept record is asked, beside its facts
    **dict.fromkeys(("name", "reason", "note", "date", "command"), str),
    **dict.fromkeys(("ceilings", "measurement", "window"), dict),
    "wall_s": float,
}
TAKEN = {"generation": str, "jobs": list, "group": int}  # of one that took turns


def kept(records: Records, facts: dict, workload: Workload, turns: bool) -> list[dict]:
    """What the file's last run has measured under the same facts. Raises UserError.

    `turns`: whether processes took turns; what did not is of no use to a run whose do.
    """
    found = [
        record
        for record in records.read()
        if record["status"] in KEPT
        and bool(record.get("clock")) == turns
        and all(record.get(k) == v for k, v in facts.items())
    ]
    for record in found:
        try:
            look_over(record, workload)
        except WRONG as error:
            raise UserError(f"{records.path}: not a record of ours ({error})") from error
    return found


def look_over(record: dict, workload: Workload) -> None:
    """Raises one of WRONG for a record that no run of this project wrote."""
    for name, kind in (SHAPE | (TAKEN if record.get("clock") else {})).items():
        if not isinstance(record[name], kind):
            raise TypeError(f"{name} is {record[name]!r}")
    if record["status"] == "ok":
        workload.recall(record["recipe"])
        workload.rate(record)


def recalled(record: dict, stack: Stack, workload: Workload) -> Combination | None:
    """What the record decided; None where its rungs make another recipe by now.

    So it is where a rung below was measured again and another of its candidates was chosen.
    """
    number, tried = record["rung"], record.get("candidates", {})
    recipe = None
    if record["status"] == "ok":
        before = dict(stack.chosen)
        if any(tried.values()):
            stack.chosen[number] = best(tried, workload)
        recipe = same_recipe(record, stack, workload)
        if recipe is None:
            stack.chosen = before
            return None
    return Combination(
        record["applied"],
        recipe,
        record["status"],
        record["reason"],
        record["note"],
        tried,
        record.get("refused", {}),  # records of before have none
        record.get("first_try", {}),
        settled=recipe is not None,
        checked=recipe is not None,
    )


def same_recipe(record: dict, stack: Stack, workload: Workload) -> Any:
    """The rungs' own recipe, closed as the record has it; None where that is not the record's."""
    try:
        plan, other = stack.plan, workload.recall(record["recipe"])
        reference = record["rung"] == REFERENCE
        composed = plan.reference if reference else stack.composed(record["applied"])
        recipe = workload.closed_as(composed, other)
    except WRONG:
        return None
    return recipe if workload.dump(recipe) == record["recipe"] else None

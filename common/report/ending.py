"""What a run came to, in sentences."""

import math
import shlex

import pandas as pd

from common.engine.contract import SKIPPED
from common.engine.metric import EXACT, LOWER
from common.engine.plan import Plan
from common.engine.rungs import REFERENCE, called
from common.engine.stats import UNJUDGED, is_open
from common.engine.workload import Workload
from common.report.frame import to_frame
from common.report.tables import bound, control, gain, is_stair

BASELINE = "the baseline"
MOST_NAMED = 3  # rungs that a headline names
FAINT = 0.005  # a gain that two digits do not show
ENOUGH = 0.01  # a gain that is smaller need not be told, where nobody said how closely to look
COMMAND = "  "  # how a line begins that holds a command, and is not to be broken
MOST = 0.85  # of the whole gain, as a logarithm: whoever made so much of it "did it"


def headline(records: list[dict], workload: Workload) -> str:
    """The result in one sentence: how many times the baseline, and which rungs did it."""
    frame = to_frame(records, workload)
    rows, title = frame.to_dict("records"), workload.headline.title
    best, foot = summit(rows), frame.attrs["foot"] or BASELINE
    if best is None:
        return f"No rung over {foot} was measured"
    times = multiple(best["x_base"], workload, foot)
    if best["verdict_base"] == UNJUDGED:
        return f"{times}, not judged"
    if workload.headline.noise != EXACT and is_open(best["verdict_base"]):
        return f"No gain in {title} over {foot} was told ({bound(best['verdict_base'])})"
    return f"{times}{makers(under(rows, best), best) or by(rows, best)}"


def multiple(times: float, workload: Workload, foot: str) -> str:
    """ "3.1 times the baseline's tok/s", or what it was divided by where less is better."""
    title, figure = workload.headline.title, f"{times:.{1 if round(times, 2) >= 2 else 2}f}"
    if workload.headline.better == LOWER:
        return f"{foot[0].upper()}{foot[1:]}'s {title}, divided by {figure}"
    return f"{figure} times {foot}'s {title}"


def summit(rows: list[dict]) -> dict | None:
    """The rung that a headline speaks of: the top of a stair, else the best of the branches."""
    over = [row for row in rows if row["status"] == "ok" and not missing(row["x_base"])]
    if not over:
        return None
    stair = is_stair(pd.DataFrame(rows))
    return over[-1] if stair else max(over, key=lambda row: row["x_base"])


def under(rows: list[dict], best: dict) -> list[dict]:
    """The rungs that the best one stands on, and itself: of a stair all."""
    if is_stair(pd.DataFrame(rows)):
        return rows
    by_number, number, found = {row["rung"]: row for row in rows}, best["rung"], []
    while number > 0 and (row := by_number.get(number)):
        found.append(row)
        number = number - 1 if missing(row["base"]) else int(row["base"])
    return found


def by(rows: list[dict], best: dict) -> str:
    """Which branch it is, where nobody's own gain was told."""
    return "" if is_stair(pd.DataFrame(rows)) else f", by {best['name']}"


def makers(rows: list[dict], best: dict) -> str:
    """Who made the gain, the greatest first; empty where no rung's own gain was told.

    And where a rung stands on one that was left out, which may have made most of it.
    """
    if any(row["rung"] > 0 and row["status"] == "ok" and missing(row["x_prev"]) for row in rows):
        return ""
    made = sorted(told(rows, up=True), key=lambda row: -row["x_prev"])
    named = made[:MOST_NAMED]
    if not named or best["x_base"] <= 1:
        return ""
    share = sum(math.log(row["x_prev"]) for row in named) / math.log(best["x_base"])
    each = [f"{row['name']} x{row['x_prev']:.2f}" for row in named]
    did = "made it" if share >= MOST else "made most of it" if share >= 0.5 else "helped most"
    return f": {listed(each)} {did}"


def sign(row: dict, gain: str = "x_prev", verdict: str = "verdict") -> int:
    """1 for a rung that was told to be better, -1 for one that was told to be worse, else 0.

    So it is for what is counted so exactly that a gain of a thousandth is told.
    """
    if row["status"] != "ok" or missing(row[gain]) or is_open(row[verdict]):
        return 0
    return (row[gain] > 1 + FAINT) - (row[gain] < 1 - FAINT)


def told(rows: list[dict], up: bool) -> list[dict]:
    """The rungs whose own gain was told: those that are better, or those that are worse."""
    return [row for row in rows if sign(row) == (1 if up else -1)]


def ending(records: list[dict], plan: Plan, command: str) -> list[str]:
    """The sentences that a run ends with; `command`: what was typed."""
    workload = plan.ladder.workload
    rows = to_frame(records, workload).to_dict("records")
    _, worse = workload.headline.words
    names = [row["name"] for row in rows if row["status"] == SKIPPED]
    failed = [row["name"] for row in rows if row["status"] not in ("ok", SKIPPED)]
    lost = [f"{row['name']} {gain(row['x_prev'], row['verdict'])}" for row in told(rows, up=False)]
    lines = [
        f"{headline(records, workload)}.",
        f"Here {worse}: {listed(lost)}." if lost else "",
        *untold(rows, records, plan, command),
        f"Does not apply here: {listed(names)}." if names else "",
        f"Failed: {listed(failed)}; the table says why." if failed else "",
        *out_of_memory(records, workload),
    ]
    return [line for line in lines if line]


def out_of_memory(records: list[dict], workload: Workload) -> list[str]:
    """What to change, of the first rung whose memory ran out; the rungs above it are alike."""
    died = next((record for record in records if record["status"] == "oom"), None)
    said = workload.advice(died) if died else []
    return [f"{called(died).capitalize()} ran out of memory. {said[0]}", *said[1:]] if said else []


def untold(rows: list[dict], records: list[dict], plan: Plan, command: str) -> list[str]:
    """Which gains are not known closely enough, and the command that would tell more."""
    workload, turns = plan.ladder.workload, plan.turns
    if workload.headline.noise == EXACT:
        return []
    twin = control(records, workload)
    if twin and twin["differs"]:
        return [
            "A rung differs from its own twin, so nothing is judged. To measure again:",
            COMMAND + again(command),
        ]
    enough = turns.resolution if turns else ENOUGH
    open_rows = [
        row
        for row in rows
        if row["status"] == "ok"
        and row["rung"] not in (REFERENCE, 0)
        and isinstance(row["verdict"], str)
        and is_open(row["verdict"])
        and not row["smallest_gain"] <= enough
    ]
    if not open_rows:
        return []
    once = all(row["verdict"] == UNJUDGED for row in open_rows)
    each = [f"{row['name']} {gain(row['x_prev'], row['verdict'])}" for row in open_rows]
    if turns is None:
        more = ("--rounds", str(max(3, plan.rounds + 1)))
    elif turns.steps is not None:
        more = ("--steps", str(4 * turns.steps))
    else:
        more = ("--budget", f"{math.ceil(2 * turns.budget_s / 60)}m")
    what = f"Not told: {listed(each)}. A longer run tells more:"
    what = "One round cannot tell gains from noise. To judge them:" if once else what
    return [what, COMMAND + again(command, *more)]


def again(command: str, *options: str) -> str:
    """The command with an option, and its value, in place of what it had of them."""
    kept, words = [], shlex.split(command)
    while words:
        word = words.pop(0)
        if word == "--resume" or word.startswith(f"{options[0]}=" if options else "--resume="):
            continue
        if options and word == options[0]:
            words = words[len(options) - 1 :]
            continue
        kept.append(word)
    return shlex.join([*kept, *options])


def listed(names: list[str]) -> str:
    """ "a, b, and c"."""
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def missing(value) -> bool:
    return value is None or pd.isna(value)

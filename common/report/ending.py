"""What a run came to, in a sentence."""

import pandas as pd

from common.engine.rungs import shown
from common.engine.workload import Workload
from common.report.frame import to_frame
from common.report.tables import gain


def headline(records: list[dict], workload: Workload) -> str:
    """The result in words, for a title; empty where there is none."""
    rows = [row for row in to_frame(records, workload).to_dict("records") if row["status"] == "ok"]
    told = [row for row in rows if gain(row["x_prev"], row["verdict"]).startswith("x")]
    if not rows or pd.isna(rows[-1]["x_base"]):
        return ""
    most = sorted(told, key=lambda row: -row["x_prev"])[:2]
    names = " and ".join(f"{row['name']} x{row['x_prev']:.1f}" for row in most)
    what = f"Rung {shown(rows[-1]['rung'])} is {rows[-1]['x_base']:.1f} times the baseline"
    return what + (f": {names} did most of it" if names else "")

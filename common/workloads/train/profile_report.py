"""Where the time of a step goes, rung by rung, for people: from records with a profile."""

from statistics import median

import pandas as pd

from common.engine.rungs import REFERENCE, shown
from common.report.tables import cell, markdown_table
from common.workloads.train.layer_report import (
    figure,
    layers_markdown,
    name_cells,
    profiled,
    to_layers,
)
from common.workloads.train.metrics import describe
from common.workloads.train.parts import (
    ATTENTION,
    COPIES,
    ELEMENTWISE,
    GAPS,
    LOSS,
    NETWORK,
    OPTIMIZER,
    PARTS,
    PRODUCTS,
    WAIT,
)
from common.workloads.train.roofline import least_seconds

SHORT = {  # the parts' heads in 80 columns
    PRODUCTS: "matmul",
    ATTENTION: "attn",
    ELEMENTWISE: "norm+",
    LOSS: "loss",
    OPTIMIZER: "optim",
    COPIES: "copy",
    NETWORK: "net",
    WAIT: "wait",
    GAPS: "gaps",
}
LONGEST = 60  # characters of a kernel's name in profile.md
EXPLAINED = """\
Milliseconds per 1000 tokens, in {steps} profiled steps after the timed ones; profiling itself makes
a step slower. On a CPU an operator counts with the time in itself, on a GPU a kernel with its time
on the device. Gaps: time in no operator or kernel (Python, launches, bookkeeping of tensors).
Elementwise includes look-ups and the kernels that `torch.compile` fuses, unless their names say
that they belong elsewhere. Of several processes the first is shown; on CPUs, where gloo sends from
threads of its own, waiting for the others is a gap."""
ROOF = """\
The least by part, ms per 1000 tokens: the longer of the least FLOPs and the least bytes of each
part at the ceilings measured here (roofline.py derives them). Explained: their sum over the
timed step. Above 100 %: the data stayed in a cache, which is faster than the copies that were
measured."""


def to_profile(records: list[dict]) -> pd.DataFrame:
    """One row per profiled rung. Milliseconds per 1000 tokens, except for `explained`.

    A column per part; `profiled_ms`: their sum; `timed_ms`: the median step of all rounds;
    `least PART` and `least_ms`, their sum: at the measured ceilings; `explained`: that sum's share
    of the timed step; all missing where the ceilings are. `top`: as profiled, seconds per step.
    """
    rows = []
    for told, of_rung in profiled(records):
        measured = told["measurement"]
        profile, ms = measured["profile"], 1e6 / measured["tokens_per_step"]
        row = {"rung": told["rung"], "name": told["name"], "top": profile["top"]}
        row |= {part: ms * profile["parts"].get(part, 0.0) for part in PARTS}
        row["profiled_ms"] = ms * profile["window_s"] / profile["steps"]
        timed = median(median(r["measurement"]["step_s"]) for r in of_rung)
        row["timed_ms"] = ms * timed
        least = least_seconds(told)
        row |= {f"least {part}": ms * seconds for part, seconds in least.items()}
        if least:
            row["least_ms"] = ms * sum(least.values())
            row["explained"] = sum(least.values()) / timed
        row["tokens"] = measured["tokens_per_step"]
        row["steps"] = profile["steps"]
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=_columns())


def before_and_after(
    before: list[dict], after: list[dict]
) -> dict[str, list[tuple[str, str, str]]]:
    """Two rungs' profiles, part by part; nothing where one of them has none."""
    frames = [to_profile(records) for records in (before, after)]
    if not all(map(len, frames)):
        return {}
    one, other = (frame.to_dict("records")[0] for frame in frames)
    names = {part: part for part in PARTS} | {"profiled_ms": "profiled step"}
    rows = [
        (name, figure(one[key]), figure(other[key]))
        for key, name in names.items()
        if one[key] or other[key]
    ]
    return {"Where the time goes, ms per 1000 tokens": rows}


def _columns() -> list[str]:
    sums = ["profiled_ms", "timed_ms", "least_ms", "explained", "tokens", "steps", "top"]
    return ["rung", "name", *PARTS, *(f"least {part}" for part in PARTS), *sums]


def profile_text(frame: pd.DataFrame) -> str:
    """The parts in per cent of the profiled step, in 80 columns."""
    head = f"{'':>2} {'% of a profiled step':<20}"
    lines = [head + "".join(f"{SHORT[p]:>{_width(p)}}" for p in PARTS) + f"{'roof':>6}"]
    for row in frame.to_dict("records"):
        shares = "".join(
            f"{100 * row[part] / row['profiled_ms']:>{_width(part)}.0f}" for part in PARTS
        )
        lines.append(
            f"{shown(row['rung']):>2} {row['name'][:20]:<20}{shares}"
            f"{cell(row['explained'], '>6.0%')}"
        )
    lines.append("   roof: the share of the timed step that the hardware's ceilings explain")
    return "\n".join(lines)


def _width(part: str) -> int:
    return max(5, len(SHORT[part]) + 1)


def profile_markdown(frame: pd.DataFrame, records: list[dict]) -> str:
    """profile.md: the parts, the least that the hardware allows, and the dearest operators."""
    rows = frame.to_dict("records")
    head = {"#": "--:", "rung": ":--"} | dict.fromkeys(PARTS, "--:")
    head |= dict.fromkeys(("profiled step", "timed step"), "--:")
    parts = [
        [*name_cells(row), *(figure(row[key]) for key in (*PARTS, "profiled_ms", "timed_ms"))]
        for row in rows
    ]
    least = [part for part in PARTS if frame[f"least {part}"].notna().any()]
    roof_head = {"#": "--:", "rung": ":--"} | dict.fromkeys(least, "--:")
    roof_head |= dict.fromkeys(("least step", "timed step", "explained"), "--:")
    keys = (*(f"least {part}" for part in least), "least_ms", "timed_ms")
    roof = [
        name_cells(row)
        + [figure(row[key]) for key in keys]
        + [cell(row["explained"], ".1%", "n/a")]
        for row in rows
    ]
    blocks = [
        f"# Where the time goes\n\n{describe(records)}",
        EXPLAINED.format(steps=rows[0]["steps"]),
        markdown_table(head, parts),
        f"## What the hardware explains\n\n{ROOF}",
        markdown_table(roof_head, roof),
        *layers_markdown(to_layers(records)),
        "## The most expensive operators",
        *(dearest(row) for row in rows),
    ]
    return "\n\n".join(blocks) + "\n"


def dearest(row: dict) -> str:
    """One rung's most expensive operators or kernels, per step."""
    head = {"operator or kernel": ":--", "ms per 1000 tokens": "--:", "of the step": "--:"}
    head |= {"calls per step": "--:", "part": ":--"}
    rows = []
    for one in row["top"]:
        name = one["name"] if len(one["name"]) <= LONGEST else one["name"][: LONGEST - 1] + "…"
        ms = 1e6 * one["s"] / row["tokens"]
        share = f"{ms / row['profiled_ms']:.1%}"
        rows.append([f"`{name}`", figure(ms), share, f"{one['calls']:g}", one["part"]])
    number = "" if row["rung"] == REFERENCE else f"{row['rung']}. "
    return f"### {number}{row['name']}\n\n{markdown_table(head, rows)}"

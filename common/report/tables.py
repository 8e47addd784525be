"""Tables for people: in a terminal, in Markdown. What is not measurable is not shown as a gain."""

import math
import re
import textwrap

import pandas as pd

from common.engine.gains import Gains
from common.engine.metric import BRIEF, PAGE, Metric
from common.engine.plan import TWIN
from common.engine.rungs import called, proof, shown, why
from common.engine.stats import SAME, UNCHANGED, UNJUDGED, is_open
from common.engine.workload import Workload
from common.report.frame import to_frame

LEGEND = {
    UNCHANGED: "<2%: no gain was told; a larger one would have been (95 %, all rungs)",
    UNJUDGED: "?  not judged: by one round (--rounds 2 or more), or if a twin differs",
}
WIDTH = 80


def cell(value, form: str, missing: str = "") -> str:
    return missing if value is None or pd.isna(value) else format(value, form)


def gain(value, verdict) -> str:
    """A gain for a person: the ratio only where one was told, else what it is less than."""
    if value is None or pd.isna(value):
        return ""
    if verdict.startswith(UNCHANGED):
        return bound(verdict)
    return {SAME: "=", UNJUDGED: "?"}.get(verdict, f"x{value:.2f}")


def bound(verdict: str) -> str:
    """A verdict for a narrow column: "<2.1%" where no gain was told."""
    return re.sub(f"^{UNCHANGED} (.+) %$", r"<\1%", verdict)


def in_words(value, verdict) -> str:
    """A gain for Markdown: spelled out where there is none."""
    return verdict if isinstance(verdict, str) and is_open(verdict) else gain(value, verdict)


def spread(row: dict, name: str) -> str:
    """Half the width of a metric's interval, in per cent of its value; empty if unknown.

    Where it has no upper end, that.
    """
    if pd.isna(row[f"{name}_low"]):
        return ""
    if math.isinf(row[f"{name}_high"]):
        return "" if math.isinf(row[name]) else "to inf"
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    share = 100 * half / row[name]
    return f"±{share:.0f}%" if share >= 1 else f"±{share:.1f}%"


def unit(title: str) -> str:
    """The head of a narrow column: the unit alone, where a title ends with one."""
    return title.rpartition(", ")[2]


def device_type(records: list[dict]) -> str:
    return records[0]["machine"]["device_type"]


def to_text(frame: pd.DataFrame, workload: Workload) -> str:
    """The table for a terminal, at most 80 columns wide."""
    headline, brief = workload.headline, workload.shown(BRIEF)
    spreads = [spread(row, headline.name) for row in frame.to_dict("records")]
    wide = max(6, *(len(text) + 1 for text in spreads))
    head = f"{headline.title:>8}{'':>{wide}}{'x prev':>7}{'x base':>7}"
    texts = [[metric.text(value, "") for value in frame[metric.name]] for metric in brief]
    heads = [unit(metric.title) for metric in brief]
    columns = [(head, *column) for head, column in zip(heads, texts, strict=True)]
    widths = [max(6, *(len(text) + 1 for text in column)) for column in columns]
    head += "".join(f"{text:>{width}}" for text, width in zip(heads, widths, strict=True))
    lines = [f"{'':>2} {'rung':<25}{head} in effect"]
    for place, row in enumerate(frame.to_dict("records")):
        if row["status"] != "ok":
            lines.append(refusal_line(row))
            continue
        figures = "".join(f"{t[place]:>{w}}" for t, w in zip(texts, widths, strict=True))
        lines.append(
            f"{shown(row['rung']):>2} {row['name']:<25}{headline.text(row[headline.name]):>8}"
            f"{spreads[place]:>{wide}}{gain(row['x_prev'], row['verdict']):>7}"
            f"{gain(row['x_base'], row['verdict_base']):>7}"
            f"{figures} {row['in_effect']}".rstrip()[:WIDTH]
        )
    for row in frame[frame["note"].fillna("") != ""].to_dict("records"):
        lines.append(textwrap.fill(f"   {called(row)}: {row['note']}", WIDTH))
    said = {*frame["verdict"], *frame["verdict_base"]}
    lines += [f"   {text}" for word, text in LEGEND.items() if any(word in str(v) for v in said)]
    return "\n".join([*lines, *more_text(frame, workload)])


def control(records: list[dict], workload: Workload) -> dict | None:
    """What one rung's twin showed: the rung, the ratio, its 95 % interval, and whether it differs.

    None where there was none.
    """
    gains = Gains(records, workload.headline)
    if (found := gains.twin()) is None:
        return None
    number, parts = found
    told = gains.estimates(gains.over_below() | {TWIN: parts})[TWIN]
    low, ratio, high = (math.exp(value) for value in (told.low, told.value, told.high))
    return {"rung": number, "ratio": ratio, "low": low, "high": high, "differs": gains.differs()}


def control_text(found: dict | None) -> str:
    if found is None:
        return ""
    same = f"control: rung {found['rung']} once more is x{found['ratio']:.3f} of itself"
    known = not math.isnan(found["low"])
    within = f"{found['low']:.3f} to {found['high']:.3f}" if known else "too few turns to judge it"
    said = f"{same} ({within})"
    if found["differs"]:
        said += "; the same must not differ, so this run judges nothing: measure again"
    return said


def more_text(frame: pd.DataFrame, workload: Workload) -> list[str]:
    """A second table, of the metrics that ask for one; no line where none does."""
    metrics = [metric for metric in workload.metrics if metric.short]
    rows = [row for row in frame.to_dict("records") if row["status"] == "ok"]
    if not metrics or not rows:
        return []
    texts = {m.name: [m.text(row[m.name], "") for row in rows] for m in metrics}
    widths = {m.name: max(map(len, [m.short, *texts[m.name]])) + 1 for m in metrics}
    names = WIDTH - 4 - sum(widths.values())
    head = "".join(f"{metric.short:>{widths[metric.name]}}" for metric in metrics)
    lines = ["", f"{'':>2} {'rung':<{names}} {head}"]
    for place, row in enumerate(rows):
        name = textwrap.shorten(row["name"], names, placeholder="…")
        figures = "".join(f"{texts[m.name][place]:>{widths[m.name]}}" for m in metrics)
        lines.append(f"{shown(row['rung']):>2} {name:<{names}} {figures}".rstrip())
    legend = "; ".join(metric.legend for metric in metrics if metric.legend)
    indent = {"initial_indent": "   ", "subsequent_indent": "   "}
    return [*lines, *textwrap.wrap(legend, WIDTH, **indent)]


def refusal_line(row: dict) -> str:
    """A rung without figures: its status and why, in 80 columns."""
    head = f"{shown(row['rung']):>2} {row['name']:<25}   "
    return head + textwrap.shorten(why(row), WIDTH - len(head), placeholder="…")


def progress_line(record: dict, workload: Workload | None) -> str:
    """One finished measurement. Gains come when all rounds are in."""
    if record["status"] != "ok":
        return refusal_line(record)
    figures = "".join(figure(metric, record) for metric in shown_at_once(workload))
    return f"{shown(record['rung']):>2} {record['name']:<25}{figures}  {proof(record)}".rstrip()


def shown_at_once(workload: Workload | None) -> list[Metric]:
    return [workload.headline, *workload.shown(BRIEF)] if workload else []


def figure(metric: Metric, record: dict) -> str:
    value = metric.of(record) if metric.of else None
    return f" {metric.text(value, ''):>8} {unit(metric.title)}"


def markdown_table(head: dict[str, str], rows: list[list[str]]) -> str:
    """A Markdown table; `head` maps titles to alignments."""
    lines = [list(head), list(head.values()), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_brief_markdown(
    records: list[dict], workload: Workload, published: dict[str, dict[int, str]] | None = None
) -> str:
    """README's table: what most readers want to know.

    `published`: gains over the rung below from elsewhere, by title and rung.
    """
    headline, brief, published = workload.headline, workload.shown(BRIEF), published or {}
    head = {"#": "--:", "rung": ":--", f"{headline.title} (95 %)": "--:"}
    head |= {"over the rung below": "--:", "over the baseline": "--:"}
    head |= {metric.title_on(device_type(records)): "--:" for metric in brief}
    head |= {f"{title}: over the rung below": "--:" for title in published}
    rows = []
    for row in to_frame(records, workload).to_dict("records"):
        figures = [why(row), "", "", *[""] * len(brief)]
        if row["status"] == "ok":
            rate = headline.text(row[headline.name])
            figures = [
                f"{rate} {spread(row, headline.name)}".strip(),
                in_words(row["x_prev"], row["verdict"]),
                in_words(row["x_base"], row["verdict_base"]),
                *(metric.text(row[metric.name]) for metric in brief),
            ]
        elsewhere = [gains.get(row["rung"], "") for gains in published.values()]
        rows.append([shown(row["rung"]), row["name"], *figures, *elsewhere])
    return f"{markdown_table(head, rows)}\n\n{workload.notes(records)}"


def to_markdown(
    records: list[dict], workload: Workload, published: dict[str, dict[int, str]] | None = None
) -> str:
    """ladder.md: everything that was measured anywhere, with published gains beside this run's."""
    headline, published = workload.headline, published or {}
    frame = to_frame(records, workload)
    metrics = [m for m in workload.shown(BRIEF, PAGE) if frame[m.name].notna().any()]
    stair = is_stair(frame)
    head = {"#": "--:", "rung": ":--"} | ({} if stair else {"adds to": "--:"})
    head |= {headline.title: "--:", "95 % interval": "--:", "x prev": "--:", "x base": "--:"}
    head |= {f"{title}: x prev": "--:" for title in published}
    head |= {metric.title_on(device_type(records)): "--:" for metric in metrics}
    head |= {"numerics": ":--", "in effect": ":--"}
    rows = []
    for row in frame.to_dict("records"):
        about = [shown(row["rung"]), row["name"], *([] if stair else [cell(row["base"], ".0f")])]
        elsewhere = [gains.get(row["rung"], "") for gains in published.values()]
        figures = [why(row), "", "", "", *elsewhere, *[""] * len(metrics), "", ""]
        if row["status"] == "ok":
            ends = (row[f"{headline.name}_{end}"] for end in ("low", "high"))
            figures = [
                headline.text(row[headline.name]),
                " to ".join(headline.text(end, "?") for end in ends),
                in_words(row["x_prev"], row["verdict"]),
                in_words(row["x_base"], row["verdict_base"]),
                *elsewhere,
                *(metric.text(row[metric.name]) for metric in metrics),
                row["numerics"],
                "; ".join(filter(None, (row["in_effect"], row["note"]))),
            ]
        rows.append([*about, *figures])
    ceilings = workload.ceilings_text(records)
    blocks = [f"# {workload.describe(records)}", markdown_table(head, rows)]
    more = (workload.notes(records), control_text(control(records, workload)), ceilings)
    return "\n\n".join([*blocks, *filter(None, more)]) + "\n"


def is_stair(frame: pd.DataFrame) -> bool:
    """Whether every rung adds to the one below it."""
    return all(map(on_the_rung_below, frame.to_dict("records")))


def on_the_rung_below(row: dict) -> bool:
    return pd.isna(row["base"]) or row["base"] == row["rung"] - 1

"""From records to the table: CSV for programs, Markdown and text for people."""

import textwrap
from pathlib import Path
from statistics import mean, median

import pandas as pd

COLUMNS = [
    *("rung", "name", "status", "reason", "tok_per_s", "x_prev", "x_base", "step_ms"),
    *("first_step_s", "peak_reserved_gib", "peak_allocated_gib", "loss", "mfu", "batch_size"),
    *("in_effect", "numerics", "data_wait", "note"),
]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_a100.csv"


def to_frame(records: list[dict]) -> pd.DataFrame:
    """One row per rung, with COLUMNS; what was not measured is missing, never 0.

    `x_prev` is the gain over the rung that this one was added to, `x_base` over the baseline; both
    are missing where that one was not measured.
    """
    rates = {tuple(r["applied"]): _tok_per_s(r) for r in records if r["status"] == "ok"}
    rows = [_row(record, rates) for record in records]
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("rung", kind="stable")
    return frame.reset_index(drop=True)


def _row(record: dict, rates: dict[tuple, float]) -> dict:
    row = {key: record[key] for key in ("rung", "name", "status", "reason", "numerics", "note")}
    if record["status"] != "ok":
        return row
    measured, applied = record["measurement"], tuple(record["applied"])
    rate = rates[applied]
    peak = record["peak_flops"]
    return row | {
        "tok_per_s": rate,
        "x_prev": _ratio(rate, rates.get(applied[:-1])) if applied else None,
        "x_base": _ratio(rate, rates.get(())) if applied else None,
        "step_ms": 1e3 * median(measured["step_s"]),
        "first_step_s": measured["first_step_s"],
        "peak_reserved_gib": measured["peak_reserved_gib"],
        "peak_allocated_gib": measured["peak_allocated_gib"],
        "loss": mean(measured["losses"]),
        "mfu": rate * record["flops_per_token"] / peak if peak else None,
        "batch_size": record["recipe"]["batch_size"],
        "in_effect": measured["in_effect"].get(str(record["rung"]), ""),
        "data_wait": measured["data_wait_s"] / measured["window_s"],
    }


def _tok_per_s(record: dict) -> float:
    measured = record["measurement"]
    return measured["tokens_per_step"] / median(measured["step_s"])


def _ratio(rate: float, below: float | None) -> float | None:
    return rate / below if below else None


def memory_label(record: dict) -> str:
    """What "reserved" means on the record's device."""
    on_cpu = record["machine"]["device_type"] == "cpu"
    return "peak resident set" if on_cpu else "peak reserved"


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def cell(value, form: str, missing: str = "") -> str:
    return missing if value is None or pd.isna(value) else format(value, form)


def to_text(frame: pd.DataFrame) -> str:
    """The table for a terminal, at most 80 columns wide."""
    lines = [f"{'':>2} {'rung':<25}{'tok/s':>9}{'x prev':>8}{'x base':>8}{'GiB':>8}  in effect"]
    lines += [text_line(row) for row in frame.to_dict("records")]
    return "\n".join(lines)


def text_line(row: dict) -> str:
    """One rung in 80 columns: its figures, or why it has none."""
    head = f"{row['rung']:>2} {row['name']:<25}"
    if row["status"] != "ok":
        reason = textwrap.shorten(row["reason"], 80 - len(head) - 9, placeholder="…")
        return f"{head}{row['status']:>7}: {reason}"
    return (
        f"{head}{row['tok_per_s']:>9,.0f}{cell(row['x_prev'], '>8.2f', ' ' * 8)}"
        f"{cell(row['x_base'], '>8.2f', ' ' * 8)}{row['peak_reserved_gib']:>8.2f}"
        f"  {row['in_effect']}"
    )


def describe_run(records: list[dict]) -> str:
    """Device, shape, and versions in one line."""
    first = records[0]
    shape, versions = first["settings"]["shape"], first["versions"]
    batch = next((r["recipe"]["batch_size"] for r in records if r["recipe"]), "?")
    dropout = next((r["recipe"]["dropout"] for r in records if r["recipe"]), 0)
    return (
        f"{first['machine']['device']} ({first['machine']['threads']} threads), "
        if first["machine"]["device_type"] == "cpu"
        else f"{first['machine']['device']}, "
    ) + (
        f"{shape['layers']} layers, {shape['heads']} heads, width {shape['emb_dim']}, "
        f"context {shape['context']}, batch {batch}, dropout {dropout:g}, "
        f"torch {versions['torch']}, {first['date']}"
    )


def to_markdown(frame: pd.DataFrame, records: list[dict]) -> str:
    """The table with the published A100 gains beside this machine's."""
    published = pd.read_csv(PUBLISHED, comment="#").set_index("rung")["tok_per_s"]
    memory = memory_label(records[0])
    lines = [
        f"# {describe_run(records)}",
        "",
        f"| | rung | tok/s | x prev | x base | A100, published: x prev | GiB ({memory}) "
        "| first step, s | loss | MFU | in effect |",
        "|--:|:--|--:|--:|--:|--:|--:|--:|--:|--:|:--|",
    ]
    for row in frame.to_dict("records"):
        number = row["rung"]
        known = number in published.index and number - 1 in published.index
        a100 = f"{published[number] / published[number - 1]:.2f}" if known else ""
        if row["status"] != "ok":
            figures = [row["status"], "", "", a100, "", "", "", "", row["reason"]]
        else:
            figures = [
                f"{row['tok_per_s']:,.0f}",
                cell(row["x_prev"], ".2f"),
                cell(row["x_base"], ".2f"),
                a100,
                f"{row['peak_reserved_gib']:.2f}",
                f"{row['first_step_s']:.1f}",
                f"{row['loss']:.3f}",
                cell(row["mfu"], ".1%", "n/a"),
                "; ".join(filter(None, (row["in_effect"], row["note"]))),
            ]
        lines.append("| " + " | ".join([str(number), row["name"], *figures]) + " |")
    return "\n".join([*lines, "", *_notes(records), ""])


def _notes(records: list[dict]) -> list[str]:
    settings = records[0]["settings"]
    text = next((r["measurement"]["text_source"] for r in records if r["status"] == "ok"), "?")
    return [
        f"Median of {settings['steps']} timed steps after {settings['warmup']}; the clock runs "
        f"around training steps only. Text: {text}. Commit {records[0]['commit']}"
        f"{' (changed)' if records[0]['dirty'] else ''}. `{records[0]['command']}`",
    ]

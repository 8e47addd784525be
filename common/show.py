"""Tables for people. What is not measurable is not shown as a gain."""

import textwrap
from pathlib import Path

import pandas as pd

from common.ladder import REFERENCE, shown
from common.stats import UNCHANGED, UNJUDGED
from common.table import proof, to_frame, tok_per_s

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_a100.csv"
LEGEND = {
    UNCHANGED: "~  no measurable change (95 %, all rungs together)",
    UNJUDGED: "?  one round cannot tell a gain from noise: --rounds 2 or more",
}


def memory_label(record: dict) -> str:
    """What "reserved" means on the record's device."""
    on_cpu = record["machine"]["device_type"] == "cpu"
    return "peak resident set" if on_cpu else "peak reserved"


def cell(value, form: str, missing: str = "") -> str:
    return missing if value is None or pd.isna(value) else format(value, form)


def gain(value, verdict) -> str:
    """A gain for a person: the ratio only where it is measurable."""
    if value is None or pd.isna(value):
        return ""
    return {UNCHANGED: "~", UNJUDGED: "?"}.get(verdict, f"x{value:.2f}")


def kept_share(row: dict) -> str:
    """How well several processes scale, in words."""
    return f"{row['efficiency']:.0%} of {row['processes']:.0f}"


def spread(row: dict) -> str:
    """Half the width of the rate's interval, in per cent of the rate; empty if unknown."""
    if pd.isna(row["tok_per_s_low"]):
        return ""
    half = (row["tok_per_s_high"] - row["tok_per_s_low"]) / 2
    share = 100 * half / row["tok_per_s"]
    return f"±{share:.0f}%" if share >= 1 else f"±{share:.1f}%"


def to_text(frame: pd.DataFrame) -> str:
    """The table for a terminal, at most 80 columns wide."""
    head = f"{'tok/s':>8}{'':>6}{'x prev':>7}{'x base':>7}{'GiB':>6} in effect"
    lines = [f"{'':>2} {'rung':<25}{head}"]
    for row in frame.to_dict("records"):
        if row["status"] != "ok":
            lines.append(refusal_line(row))
            continue
        lines.append(
            f"{shown(row['rung']):>2} {row['name']:<25}{row['tok_per_s']:>8,.0f}{spread(row):>6}"
            f"{gain(row['x_prev'], row['verdict']):>7}"
            f"{gain(row['x_base'], row['verdict_base']):>7}"
            f"{row['peak_reserved_gib']:>6.2f} {row['in_effect']}".rstrip()[:80]
        )
    for row in frame[frame["note"].fillna("") != ""].to_dict("records"):
        lines.append(textwrap.fill(f"   {called(row)}: {row['note']}", 80))
    said = {*frame["verdict"], *frame["verdict_base"]}
    return "\n".join(lines + [f"   {text}" for verdict, text in LEGEND.items() if verdict in said])


def called(row: dict) -> str:
    """How a note names the rung of a row or a record."""
    return row["name"] if row["rung"] == REFERENCE else f"rung {row['rung']}"


def refusal_line(row: dict) -> str:
    """A rung without figures: its status and why, in 80 columns."""
    head = f"{shown(row['rung']):>2} {row['name']:<25}{row['status']:>9}  "
    return head + textwrap.shorten(row["reason"], 80 - len(head), placeholder="…")


def progress_line(record: dict) -> str:
    """One finished measurement. Gains come when all rounds are in."""
    if record["status"] != "ok":
        return refusal_line(record)
    measured = record["measurement"]
    return (
        f"{shown(record['rung']):>2} {record['name']:<25}{tok_per_s(record):>9,.0f} tok/s"
        f"{measured['peak_reserved_gib']:>8.2f} GiB  {proof(record)}"
    ).rstrip()


def describe_run(records: list[dict]) -> str:
    """Device, shape, and versions in one line."""
    first = records[0]
    machine, shape, recipe = first["machine"], first["settings"]["shape"], first["baseline"]
    threads = f" ({machine['threads']} threads)" if machine["device_type"] == "cpu" else ""
    return (
        f"{machine['device']}{threads}, {shape['layers']} layers, {shape['heads']} heads, "
        f"width {shape['emb_dim']}, context {shape['context']}, batch {recipe['batch_size']}, "
        f"dropout {recipe['dropout']:g}, torch {first['versions']['torch']}, {first['date']}"
    )


def published_gains(records: list[dict]) -> dict[int, str]:
    """The published A100 gain of each rung over the one below it; none for other ladders.

    The last one is that of several GPUs, and belongs to the bar of several processes.
    """
    if records[0]["ladder"] != "steps":
        return {}
    rows = pd.read_csv(PUBLISHED, comment="#").set_index("rung")
    rates, several = rows["tok_per_s"], rows.index[rows["gpus"] > 1]
    gains = {n: f"x{rates[n] / rates[n - 1]:.2f}" for n in rates.index if n - 1 in rates.index}
    bars = {r["rung"] for r in records if (r.get("processes") or 1) > 1}
    return {n: gain for n, gain in gains.items() if n not in several} | {
        bar: gains[n] for bar, n in zip(sorted(bars), several, strict=False)
    }


def markdown_table(head: dict[str, str], rows: list[list[str]]) -> str:
    """A Markdown table; `head` maps titles to alignments."""
    lines = [list(head), list(head.values()), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def in_words(value, verdict) -> str:
    """A gain for Markdown: spelled out where there is none."""
    return verdict if verdict in LEGEND else gain(value, verdict)


def to_brief_markdown(records: list[dict]) -> str:
    """README's table: what most readers want to know."""
    a100 = published_gains(records)
    memory = f"{memory_label(records[0])}, GiB"
    head = {"#": "--:", "rung": ":--", "tok/s (95 %)": "--:", "over the rung below": "--:"}
    head |= {"over the baseline": "--:", memory: "--:"}
    if a100:
        head["A100, published: over the rung below"] = "--:"
    rows = []
    for row in to_frame(records).to_dict("records"):
        number = row["rung"]
        figures = [row["status"], row["reason"], "", ""]
        if row["status"] == "ok":
            figures = [
                f"{row['tok_per_s']:,.0f} {spread(row)}".strip(),
                in_words(row["x_prev"], row["verdict"]),
                in_words(row["x_base"], row["verdict_base"]),
                f"{row['peak_reserved_gib']:.2f}",
            ]
        rows.append(
            [shown(number), row["name"], *figures, *([a100.get(number, "")] if a100 else [])]
        )
    return f"{markdown_table(head, rows)}\n\n{notes(records)}"


def losses(row: dict) -> str:
    """The training loss, and the one on held-out text where it was asked for."""
    held_out = cell(row["validation_loss"], ".3f")
    return f"{row['loss']:.3f}" + (f" (held-out {held_out})" if held_out else "")


def to_markdown(records: list[dict]) -> str:
    """ladder.md: everything, with the published A100 gains beside this machine's."""
    a100 = published_gains(records)
    head = {"#": "--:", "rung": ":--", "tok/s": "--:", "95 % interval": "--:", "x prev": "--:"}
    head |= {"x base": "--:"} | ({"A100, published: x prev": "--:"} if a100 else {})
    head |= {f"GiB ({memory_label(records[0])})": "--:", "first step, s": "--:", "loss": "--:"}
    head |= {"numerics": ":--", "gradient error": "--:", "MFU": "--:", "of ceiling": "--:"}
    head |= {"J / 1000 tok": "--:", "in effect": ":--"}
    rows = []
    for row in to_frame(records).to_dict("records"):
        published = [a100.get(row["rung"], "")] if a100 else []
        figures = [row["status"], "", "", "", *published, *[""] * 8, row["reason"]]
        if row["status"] == "ok":
            figures = [
                f"{row['tok_per_s']:,.0f}",
                " to ".join(cell(row[f"tok_per_s_{end}"], ",.0f", "?") for end in ("low", "high")),
                in_words(row["x_prev"], row["verdict"]),
                in_words(row["x_base"], row["verdict_base"]),
                *published,
                f"{row['peak_reserved_gib']:.2f}",
                f"{row['first_step_s']:.1f}",
                losses(row),
                row["numerics"],
                cell(row["gradient_error"], ".0e", "n/a"),
                cell(row["mfu"], ".1%", "n/a"),
                cell(row["of_ceiling"], ".1%", "n/a"),
                cell(row["joule_per_ktok"], ".2f", "n/a"),
                "; ".join(filter(None, (row["in_effect"], row["note"]))),
            ]
        rows.append([shown(row["rung"]), row["name"], *figures])
    title = f"# {describe_run(records)}"
    return f"{title}\n\n{markdown_table(head, rows)}\n\n{notes(records)}\n{ceilings(records)}"


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    first = records[0]
    text = next((r["measurement"]["text_source"] for r in records if r["status"] == "ok"), "?")
    changed = " (changed)" if first["dirty"] else ""
    rounds = max(record["round"] for record in records)
    return (
        f"{describe_run(records)}. {rounds} round(s) of {first['settings']['steps']} timed steps "
        f"after {first['settings']['warmup']}. Text: {text}. Commit {str(first['commit'])[:10]}"
        f"{changed}: `{first['command']}`"
        + (f" ({first['remark']})" if first.get("remark") else "")
    )


def ceilings(records: list[dict]) -> str:
    """What the device did at best, in one line; empty if it was not measured."""
    found = records[0]["ceilings"]
    products = [f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in found.items() if k != "copy"]
    if not products:
        return ""
    copy = f"copy {found['copy'] / 1e9:.1f} GB/s"
    return f"\nMeasured ceilings: {', '.join(products)}, {copy}.\n"

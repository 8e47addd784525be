"""From records to tables: frames and CSV for programs, Markdown and text for people."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median

import pandas as pd

from common import stats
from common.stats import UNCHANGED, UNJUDGED

COLUMNS = [
    *("rung", "name", "status", "reason", "tok_per_s", "x_prev", "x_base", "step_ms"),
    *("first_step_s", "peak_reserved_gib", "peak_allocated_gib", "loss", "mfu", "batch_size"),
    *("in_effect", "tok_per_s_low", "tok_per_s_high", "x_prev_low", "x_prev_high", "verdict"),
    *("verdict_base", "rounds", "numerics", "gradient_error", "of_ceiling", "data_wait"),
    *("joule_per_ktok", "utilisation", "note"),
]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_a100.csv"
LEGEND = {
    UNCHANGED: "~  no measurable change (95 %, all rungs together)",
    UNJUDGED: "?  one round cannot tell a gain from noise: --rounds 2 or more",
}


class Rates:
    """Log tokens per second by what was applied and by round."""

    def __init__(self, records: list[dict]) -> None:
        latest = {(r["round"], r["series"], r["rung"]): r for r in records}
        self.records = list(latest.values())  # a resumed run measures again what had failed
        self.logs: dict[tuple, dict[int, float]] = {}
        for record in self.records:
            if record["status"] == "ok":
                by_round = self.logs.setdefault(tuple(record["applied"]), {})
                by_round[record["round"]] = math.log(tok_per_s(record))

    def ratio(self, above: tuple, below: tuple) -> list[float]:
        """Log ratios, one for each round in which both were measured."""
        a, b = self.logs.get(above, {}), self.logs.get(below, {})
        return [a[turn] - b[turn] for turn in sorted(a.keys() & b.keys())]

    def of(self, series: str) -> dict[int, list[dict]]:
        """The records of a series by rung, in order of rounds."""
        found: dict[int, list[dict]] = {}
        for record in sorted(self.records, key=lambda r: (r["rung"], r["round"])):
            if record["series"] == series:
                found.setdefault(record["rung"], []).append(record)
        return found


def tok_per_s(record: dict) -> float:
    """Tokens per second at the median step of one process."""
    measured = record["measurement"]
    return measured["tokens_per_step"] / median(measured["step_s"])


def to_frame(records: list[dict]) -> pd.DataFrame:
    """One row per rung, with COLUMNS; what was not measured is missing, never 0.

    `tok_per_s` is the median of the rounds' medians. `x_prev` is the gain over the rung that this
    one was added to and `x_base` over the baseline, each the median of the rounds' own ratios, and
    missing where the other was not measured. Bounds are of 95 % intervals; a verdict is judged
    for all rungs together.
    """
    rates = Rates(records)
    rungs = rates.of("ladder")
    applied = {n: tuple(rows[-1]["applied"]) for n, rows in rungs.items()}
    logs = {n: list(rates.logs[applied[n]].values()) for n in rungs if applied[n] in rates.logs}
    logs = {n: v for n, v in logs.items() if any(r["status"] == "ok" for r in rungs[n])}
    gains = _groups({n: rates.ratio(applied[n], applied[n][:-1]) for n in logs if applied[n]})
    over_base = _groups({n: rates.ratio(applied[n], ()) for n in logs if applied[n]})
    bounds, gain_bounds = stats.intervals(logs), stats.intervals(gains)
    verdicts, base_verdicts = stats.verdicts(gains), stats.verdicts(over_base)
    rows = []
    for number, of_rung in rungs.items():
        row = _row(of_rung)
        if number in logs:
            row["tok_per_s"] = math.exp(median(logs[number]))
            row["tok_per_s_low"], row["tok_per_s_high"] = map(math.exp, bounds[number])
            row |= _shares(of_rung, row["tok_per_s"])
        if number in gains:
            row["x_prev"] = math.exp(median(gains[number]))
            row["x_prev_low"], row["x_prev_high"] = map(math.exp, gain_bounds[number])
            row["verdict"] = verdicts[number]
        if number in over_base:
            row["x_base"] = math.exp(median(over_base[number]))
            row["verdict_base"] = base_verdicts[number]
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _groups(groups: Mapping[int, list[float]]) -> dict[int, list[float]]:
    return {number: values for number, values in groups.items() if values}


def _row(records: list[dict]) -> dict:
    """What needs no other rung: from all rounds of one."""
    good = [record for record in records if record["status"] == "ok"]
    told = good[0] if good else records[-1]
    row = {key: told[key] for key in ("rung", "name", "status", "reason", "numerics", "note")}
    row["rounds"] = len(good)
    checks = [r["equivalence"]["worst_gradient_error"] for r in records if r.get("equivalence")]
    row["gradient_error"] = checks[0] if checks else None
    if not good:
        return row
    bad = [f"round {r['round']} {r['status']}: {r['reason']}" for r in records if r not in good]
    measured = [record["measurement"] for record in good]
    steps = told["settings"]["steps"]
    allocated = [m["peak_allocated_gib"] for m in measured]
    return (
        row
        | {
            "note": "; ".join(filter(None, [row["note"], *bad])),
            "step_ms": 1e3 * median(median(m["step_s"]) for m in measured),
            "first_step_s": measured[0]["first_step_s"],  # the cold one: later rounds find caches
            "peak_reserved_gib": max(m["peak_reserved_gib"] for m in measured),
            "peak_allocated_gib": None if None in allocated else max(allocated),
            "loss": mean(measured[0]["losses"][-steps:]),
            "batch_size": told["recipe"]["batch_size"],
            "in_effect": measured[0]["in_effect"].get(str(told["rung"]), ""),
            "data_wait": median(m["data_wait_s"] / m["window_s"] for m in measured),
        }
    )


def _shares(records: list[dict], rate: float) -> dict:
    """The rate against the device's peak and measured ceiling, and what it cost."""
    good = [record for record in records if record["status"] == "ok"]
    first = good[0]
    flops = rate * first["flops_per_token"]
    ceiling = first["ceilings"].get(first["format"])
    tokens = [len(r["measurement"]["step_s"]) * r["measurement"]["tokens_per_step"] for r in good]
    windows = [record["window"] for record in good]
    energy = [
        1e3 * window["energy_j"] / count
        for window, count in zip(windows, tokens, strict=True)
        if window.get("energy_j") is not None
    ]
    used = [w["utilisation"] for w in windows if w.get("utilisation") is not None]
    return {
        "mfu": share_of(flops, first["peak_flops"]),
        "of_ceiling": flops / ceiling if ceiling else None,
        "joule_per_ktok": median(energy) if energy else None,
        "utilisation": median(used) if used else None,
    }


def share_of(flops: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation; None for an unknown peak, or one that was beaten and so is wrong."""
    return flops / peak if peak and flops <= peak else None


def memory_label(record: dict) -> str:
    """What "reserved" means on the record's device."""
    on_cpu = record["machine"]["device_type"] == "cpu"
    return "peak resident set" if on_cpu else "peak reserved"


def to_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def cell(value, form: str, missing: str = "") -> str:
    return missing if value is None or pd.isna(value) else format(value, form)


def gain(value, verdict) -> str:
    """A gain for a person: the ratio only where it is measurable."""
    if value is None or pd.isna(value):
        return ""
    return {UNCHANGED: "~", UNJUDGED: "?"}.get(verdict, f"x{value:.2f}")


def spread(row: dict) -> str:
    """Half the width of the rate's interval, in per cent of the rate; empty if unknown."""
    if pd.isna(row["tok_per_s_low"]):
        return ""
    half = (row["tok_per_s_high"] - row["tok_per_s_low"]) / 2
    return f"±{100 * half / row['tok_per_s']:.0f}%"


def to_text(frame: pd.DataFrame) -> str:
    """The table for a terminal, at most 80 columns wide."""
    head = f"{'tok/s':>9}{'':>6}{'x prev':>7}{'x base':>7}{'GiB':>7}  in effect"
    lines = [f"{'':>2} {'rung':<25}{head}"]
    for row in frame.to_dict("records"):
        if row["status"] != "ok":
            lines.append(refusal_line(row))
            continue
        lines.append(
            f"{row['rung']:>2} {row['name']:<25}{row['tok_per_s']:>9,.0f}{spread(row):>6}"
            f"{gain(row['x_prev'], row['verdict']):>7}"
            f"{gain(row['x_base'], row['verdict_base']):>7}"
            f"{row['peak_reserved_gib']:>7.2f}  {row['in_effect']}".rstrip()
        )
    said = {*frame["verdict"], *frame["verdict_base"]}
    return "\n".join(lines + [f"   {text}" for verdict, text in LEGEND.items() if verdict in said])


def refusal_line(row: dict) -> str:
    """A rung without figures: its status and why, in 80 columns."""
    head = f"{row['rung']:>2} {row['name']:<25}{row['status']:>9}  "
    return head + textwrap.shorten(row["reason"], 80 - len(head), placeholder="…")


def progress_line(record: dict) -> str:
    """One finished measurement. Gains come when all rounds are in."""
    if record["status"] != "ok":
        return refusal_line(record)
    measured = record["measurement"]
    proof = measured["in_effect"].get(str(record["rung"]), "")
    return (
        f"{record['rung']:>2} {record['name']:<25}{tok_per_s(record):>9,.0f} tok/s"
        f"{measured['peak_reserved_gib']:>8.2f} GiB  {proof}"
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


def published_gains() -> dict[int, str]:
    """The published A100 gain of each rung over the one below it."""
    rates = pd.read_csv(PUBLISHED, comment="#").set_index("rung")["tok_per_s"]
    return {n: f"x{rates[n] / rates[n - 1]:.2f}" for n in rates.index if n - 1 in rates.index}


def markdown_table(head: dict[str, str], rows: list[list[str]]) -> str:
    """A Markdown table; `head` maps titles to alignments."""
    lines = [list(head), list(head.values()), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def in_words(value, verdict) -> str:
    """A gain for Markdown: spelled out where there is none."""
    return verdict if verdict in LEGEND else gain(value, verdict)


def to_brief_markdown(records: list[dict]) -> str:
    """README's table: what most readers want to know."""
    a100 = published_gains()
    memory = f"{memory_label(records[0])}, GiB"
    head = {"#": "--:", "rung": ":--", "tok/s (95 %)": "--:", "over the rung below": "--:"}
    head |= {
        "over the baseline": "--:",
        memory: "--:",
        "A100, published: over the rung below": "--:",
    }
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
        rows.append([str(number), row["name"], *figures, a100.get(number, "")])
    return f"{markdown_table(head, rows)}\n\n{notes(records)}"


def to_markdown(records: list[dict]) -> str:
    """ladder.md: everything, with the published A100 gains beside this machine's."""
    a100 = published_gains()
    head = {"#": "--:", "rung": ":--", "tok/s": "--:", "95 % interval": "--:", "x prev": "--:"}
    head |= {"x base": "--:", "A100, published: x prev": "--:"}
    head |= {f"GiB ({memory_label(records[0])})": "--:", "first step, s": "--:", "loss": "--:"}
    head |= {"numerics": ":--", "gradient error": "--:", "MFU": "--:", "of ceiling": "--:"}
    head |= {"J / 1000 tok": "--:", "in effect": ":--"}
    rows = []
    for row in to_frame(records).to_dict("records"):
        figures = [row["status"], "", "", "", a100.get(row["rung"], ""), *[""] * 8, row["reason"]]
        if row["status"] == "ok":
            figures = [
                f"{row['tok_per_s']:,.0f}",
                " to ".join(cell(row[f"tok_per_s_{end}"], ",.0f", "?") for end in ("low", "high")),
                in_words(row["x_prev"], row["verdict"]),
                in_words(row["x_base"], row["verdict_base"]),
                a100.get(row["rung"], ""),
                f"{row['peak_reserved_gib']:.2f}",
                f"{row['first_step_s']:.1f}",
                f"{row['loss']:.3f}",
                row["numerics"],
                cell(row["gradient_error"], ".0e", "n/a"),
                cell(row["mfu"], ".1%", "n/a"),
                cell(row["of_ceiling"], ".1%", "n/a"),
                cell(row["joule_per_ktok"], ".2f", "n/a"),
                "; ".join(filter(None, (row["in_effect"], row["note"]))),
            ]
        rows.append([str(row["rung"]), row["name"], *figures])
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
    )


def ceilings(records: list[dict]) -> str:
    """What the device did at best, in one line; empty if it was not measured."""
    found = records[0]["ceilings"]
    products = [f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in found.items() if k != "copy"]
    if not products:
        return ""
    copy = f"copy {found['copy'] / 1e9:.1f} GB/s"
    return f"\nMeasured ceilings: {', '.join(products)}, {copy}.\n"

"""What the parallel ladder shows beside its rates: memory by what for, bytes sent, the bubble."""

from pathlib import Path
from statistics import median

import pandas as pd

from common.data import write_atomically
from common.show import cell, markdown_table, notes
from common.table import to_csv, to_frame

MIB = 2**20
HELD = {  # bytes of a process, by what for: the title
    "parameters": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
}


def to_parallel(records: list[dict]) -> pd.DataFrame:
    """One row per rung: rates of all and of each, efficiency, MiB of a process, what it sent.

    Memory and bytes are of the process that has most. `sent_mib`: handed to collectives in a step,
    before what they make of it (a ring all-reduce sends nearly twice that). `idle`: of a
    pipeline's stages, beside what equal stages would idle.
    """
    measured: dict[int, list[dict]] = {}
    for record in records:
        if record["status"] == "ok":
            measured.setdefault(record["rung"], []).append(record["measurement"])
    rows = []
    for row in to_frame(records).to_dict("records"):
        kept = {key: row[key] for key in ("rung", "name", "base", "status", "reason")}
        if row["rung"] in measured:
            found = measured[row["rung"]][0]["parallel"]
            bubbles = [m["parallel"]["bubble"] for m in measured[row["rung"]]]
            rates = ("tok_per_s", "tok_per_s_low", "tok_per_s_high", "efficiency")
            kept |= {key: row[key] for key in rates}
            kept |= {"processes": found["processes"], "threads": found["threads"]}
            kept["tok_per_s_each"] = row["tok_per_s"] / found["processes"]
            kept |= {part: found["memory_bytes"][part] / MIB for part in HELD}
            kept["sent_mib"] = sum(found["sent_bytes"].values()) / MIB
            kept |= {f"sent_{n}_mib": v / MIB for n, v in found["sent_bytes"].items()}
            if bubbles[0]:
                kept["idle"] = median(bubble["idle"] for bubble in bubbles)
                kept["idle_predicted"] = bubbles[0]["predicted"]
        rows.append(kept)
    columns = ["processes", "tok_per_s", "tok_per_s_each", "efficiency", *HELD, "sent_mib"]
    return pd.DataFrame(rows).reindex(
        columns=dict.fromkeys(
            [*rows[0], *columns, "idle", "idle_predicted", *(k for row in rows for k in row)]
        )
    )


def text(records: list[dict]) -> str:
    """Memory, traffic, and efficiency in 80 columns; MiB of one process."""
    lines = [
        f"{'':>2} {'MiB of a process:':<22}{'weights':>8}{'grads':>7}{'optim':>7}{'activ':>8}"
        f"{'sent':>8}{'kept':>6}  idle"
    ]
    for row in to_parallel(records).to_dict("records"):
        if row["status"] != "ok":
            continue
        name = row["name"] if len(row["name"]) < 23 else row["name"][:21] + "…"
        idle = "" if pd.isna(row["idle"]) else f"{row['idle']:.0%} ({row['idle_predicted']:.0%})"
        lines.append(
            f"{row['rung']:>2} {name:<22}{row['parameters']:>8.1f}{row['gradients']:>7.1f}"
            f"{row['optimizer']:>7.1f}{row['activations']:>8.1f}{row['sent_mib']:>8.1f}"
            f"{cell(row['efficiency'], '.0%'):>6}  {idle}".rstrip()
        )
    lines.append("   kept: of as many times one process's rate; sent: a step, by one process;")
    lines.append("   idle: of a pipeline's stages (of equal stages, as predicted)")
    return "\n".join(lines)


def write(records: list[dict], out: Path) -> dict[str, Path]:
    """parallel.csv, parallel.md, and parallel.png."""
    frame = to_parallel(records)
    paths = {kind: out / f"parallel.{kind}" for kind in ("csv", "md", "png")}
    write_atomically(paths["csv"], to_csv(frame).encode())
    write_atomically(paths["md"], markdown(frame, records).encode())
    if (frame["status"] == "ok").any():
        plot(frame, records, paths["png"])
    return {"parallel": paths["png"]}


def markdown(frame: pd.DataFrame, records: list[dict]) -> str:
    head = {"#": "--:", "rung": ":--", "adds to": "--:", "processes": "--:", "tok/s": "--:"}
    head |= {"of each": "--:", "efficiency": "--:"}
    head |= {f"{title}, MiB": "--:" for title in HELD.values()}
    head |= {"sent in a step, MiB": "--:", "idle (equal stages)": "--:"}
    rows = []
    for row in frame.to_dict("records"):
        name = [str(row["rung"]), row["name"], cell(row["base"], ".0f")]
        if row["status"] != "ok":
            rows.append([*name, row["status"], row["reason"], *[""] * (len(head) - 5)])
            continue
        idle = "" if pd.isna(row["idle"]) else f"{row['idle']:.0%} ({row['idle_predicted']:.0%})"
        rows.append(
            [
                *name,
                f"{row['processes']:.0f}",
                f"{row['tok_per_s']:,.0f}",
                f"{row['tok_per_s_each']:,.0f}",
                cell(row["efficiency"], ".0%"),
                *(f"{row[part]:.1f}" for part in HELD),
                f"{row['sent_mib']:.1f}",
                idle,
            ]
        )
    return f"{markdown_table(head, rows)}\n\n{notes(records)}\n"


def plot(frame: pd.DataFrame, records: list[dict], path: Path) -> None:
    """Rates with what they keep, and the memory of a process; branches show what adds to what."""
    import matplotlib.pyplot as plt  # takes a second

    from common.plot import BLUE, GREEN, GREY, ORANGE, error_bar, finish

    rows = frame.to_dict("records")
    figure, (speed, memory) = plt.subplots(
        1, 2, sharey=True, figsize=(10, 0.42 * len(rows) + 2.0), width_ratios=(1, 1)
    )
    best = frame[["tok_per_s", "tok_per_s_high"]].max(axis=None)
    colours = dict(zip(HELD, (BLUE, GREEN, ORANGE, "#CC79A7"), strict=True))
    for place, row in enumerate(rows):
        if row["status"] != "ok":
            reason = f"{row['status']}: {row['reason']}"
            speed.text(0.01 * best, place, reason, va="center", fontsize=8, color=GREY)
            continue
        speed.barh(place, row["tok_per_s"], color=BLUE, **error_bar(row, "tok_per_s"))
        kept = "" if pd.isna(row["efficiency"]) else f"  {row['efficiency']:.0%} kept"
        label = f" {row['tok_per_s']:,.0f}{kept}"
        end = max(row["tok_per_s"], row["tok_per_s_high"] or 0)  # NaN compares as False
        speed.text(end, place, label, va="center", fontsize=9)
        left = 0.0
        for part, colour in colours.items():
            memory.barh(place, row[part], left=left, color=colour)
            left += row[part]
    for part, colour in colours.items():
        memory.barh(0, 0, color=colour, label=HELD[part])
    speed.set_yticks(range(len(rows)), branches(rows), family="monospace", fontsize=9)
    speed.set_ylim(len(rows) - 0.4, -0.6)
    speed.set_xlim(0, 1.45 * best)
    speed.set_xlabel("tokens per second of all processes, 95 % interval")
    memory.set_xlabel("memory of one process, MiB")
    memory.legend(
        frameon=False,
        fontsize=8,
        ncols=4,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        columnspacing=0.8,
        handlelength=1.0,
    )
    finish(figure, (speed, memory), records, path)


def branches(rows: list[dict]) -> list[str]:
    """Numbers and names, each indented under the rung that it adds to."""
    depth = {0: 0}
    labels = []
    for row in rows:
        number = row["rung"]
        if number:
            depth[number] = depth.get(int(row["base"]), 0) + 1
        twig = "   " * (depth[number] - 1) + "└─ " if number else ""
        labels.append(f"{twig}{number} {row['name']}")
    widest = max(map(len, labels))
    return [label.ljust(widest) for label in labels]

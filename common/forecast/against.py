"""What the forecast gives for this machine, beside what was measured on it.

From the records of python -m steps.run --ladder parallel: rung 0's step, of one process, and the
all-reduce that every rung measures between its processes before it trains.
"""

from statistics import median

from common.engine.errors import UserError
from common.engine.records import as_records_of
from common.forecast.measured import Measured, from_records
from common.forecast.network import Link, Network, buckets, exposed_s
from common.forecast.report import wrapped
from common.report.comparison import read_run
from common.workloads.train.metrics import tok_per_s

LADDER = "ladders.parallel"
RUNGS = {1: "DDP", 3: "ZeRO-1", 4: "ZeRO-2", 5: "ZeRO-3"}  # that only share out windows and states


def measured_link(found: dict[str, float], world: int) -> Link:
    """A ring's link from common.distributed.preflight's figures, of `world` processes."""
    hops = 2 * (world - 1)  # of an all-reduce; one of a single number is all latency
    return Link(
        name="as measured",
        gb_per_s=found["gb_per_s"],
        latency_s=found["latency_ms"] / 1e3 / hops,
    )


def stretch(processes: int, threads: int, cores: int) -> float:
    """How many times longer computing takes where processes' threads share the cores."""
    return max(1.0, processes * threads / cores)


def step_range(
    alone: Measured, strategy: str, world: int, link: Link, longer: float
) -> tuple[float, float]:
    """Seconds of a step of `world` processes: if all that can hide hides, and if nothing does.

    `longer`: how many times longer computing takes beside the others.
    """
    computing_s, sizes = longer * alone.step_s, buckets(alone.tensors)
    least, most = (
        computing_s
        + exposed_s(
            strategy,
            computing_s,
            sizes,
            world,
            Network(within=link, across=link, per_node=world, overlap=overlap),
        )
        for overlap in (1, 0)
    )
    return least, most


def outside(value: float, least: float, most: float) -> float:
    """How many times a value is above a range or below it; 1 within."""
    return max(1.0, value / most, least / value)


def against(path: str) -> tuple[Measured, list[dict]]:
    """One process's step, and a row for each rung of RUNGS in the last run of a records file.

    Raises UserError where they are not the parallel ladder's, or hold nothing to compare.
    """
    records = [r for r in read_run(path) if r["series"] == "ladder"]
    if {record["ladder"] for record in records} != {LADDER}:
        raise UserError(f"{path}: not records of python -m steps.run --ladder parallel")
    alone = from_records(path, 0)
    with as_records_of(path):
        return alone, beside(alone, records, path)


def beside(alone: Measured, records: list[dict], path: str) -> list[dict]:
    """The rows; `alone`: what one process measured."""
    rows = []
    for number, strategy in RUNGS.items():
        rounds = [r for r in records if r["rung"] == number and r["status"] == "ok"]
        if not rounds or rounds[0]["processes"] == 1:
            continue
        world, machine = rounds[0]["processes"], rounds[0]["machine"]
        told = [record["measurement"]["parallel"] for record in rounds]
        link = {k: median(p["link"][k] for p in told) for k in ("latency_ms", "gb_per_s")}
        threads = told[0]["threads"]
        cores = machine["cores"] or machine["threads"]
        longer = stretch(world, threads, cores) if machine["device_type"] == "cpu" else 1.0
        tokens = rounds[0]["measurement"]["tokens_per_step"]
        rate = median(map(tok_per_s, rounds))
        least, most = step_range(alone, strategy, world, measured_link(link, world), longer)
        rows.append(
            {
                "rung": number,
                "strategy": strategy,
                "processes": world,
                "threads": threads,
                "cores": cores,
                "stretch": longer,
                **link,
                "step_s": tokens / rate,
                "tok_per_s": rate,
                "forecast_s": [least, most],
                "forecast_tok_per_s": [tokens / most, tokens / least],
                "outside": outside(tokens / rate, least, most),
            }
        )
    if not rows:
        names = ", ".join(map(str, RUNGS))
        raise UserError(f"{path}: none of rungs {names} was measured there with several processes")
    return rows


def to_text(alone: Measured, rows: list[dict]) -> str:
    """Measurement and forecast beside each other in at most 80 columns, and what to make of it."""
    last = rows[-1]
    lines = [
        wrapped(f"{alone.source}: {alone.device}", ""),
        wrapped(
            f"one process: {alone.tok_per_s:,.0f} tok/s, a step of {1e3 * alone.step_s:,.1f} ms; "
            f"{alone.parameter_bytes / 1e6:,.1f} MB of gradients; then {last['processes']} "
            "processes, each with as many tokens",
            "",
        ),
        "",
        f"{'':>19}{'measured':^17}{'forecast: ms':^18}{'tok/s':^18}",
        f"{'':>2} {'strategy':<10}{'GB/s':>6}{'ms':>9}{'tok/s':>8}{'least':>9}{'most':>9}"
        f"{'least':>9}{'most':>9}{'off':>7}",
    ]
    for row in rows:
        (least, most), (low, high) = row["forecast_s"], row["forecast_tok_per_s"]
        lines.append(
            f"{row['rung']:>2} {row['strategy']:<10}{row['gb_per_s']:>6.2f}"
            f"{1e3 * row['step_s']:>9,.1f}{row['tok_per_s']:>8,.0f}{1e3 * least:>9,.1f}"
            f"{1e3 * most:>9,.1f}{low:>9,.0f}{high:>9,.0f}{'x' + format(row['outside'], '.2f'):>7}"
        )
    notes = [
        "Forecast: one process's step, and what the all-reduce measured before the training lets "
        "it wait for the others; least if all that can hide under computation does, most if "
        "nothing does. off: how many times the measured step is outside of that; x1.00 within.",
        "Every process was taken to compute as fast as one alone; memory that they share, and "
        "what the collectives themselves compute, are not in the forecast. Nor is what torch "
        "sends beyond DDP and the ZeRO paper (arXiv:1910.02054), as ZeroRedundancyOptimizer does.",
    ]
    if last["stretch"] > 1:
        notes[1:1] = [
            f"{last['processes']} processes of {last['threads']} thread(s) share {last['cores']} "
            f"cores: computing was taken to last {last['stretch']:.2f} times as long."
        ]
    return "\n".join([*lines, "", *map(wrapped, notes)])

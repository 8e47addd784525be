"""What more GPUs would bring: python -m ladders.parallel.forecast --gpus 4,8,64 --link nvlink

From one device's measured step and the model's gradient bytes: tokens per second, efficiency, and
memory for DDP and ZeRO-1, 2, 3. Arithmetic, not a measurement: it says what it assumes. With
--published it starts from the published A100 figures and says what would have to be true for its
arithmetic to give the published figure for four GPUs; with --against it stands beside what was
measured with several processes.

Units: seconds, bytes, GB/s of 1e9 bytes in one direction per GPU, GiB of 2^30 bytes.
"""

import json
import math
import textwrap
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from common.cli.runs import find_run
from common.engine.device import GIB
from common.engine.errors import UserError
from common.engine.options import Parser, number, output_folder, whole, writable_folder
from common.forecast import against
from common.forecast.measured import Measured, from_published, from_records, published_ddp
from common.forecast.network import (
    STRATEGIES,
    Network,
    buckets,
    exposed_s,
    link,
    network_of,
    states_bytes,
)
from common.forecast.report import assumptions, calibration_text, title, to_text

# Okabe and Ito's palette: jfly.uni-koeln.de/color. DDP, ZeRO-1, and ZeRO-2 often coincide: thinner
# on top, so that all stay visible.
LOOKS = {
    "DDP": ("#0072B2", 6, "-"),
    "ZeRO-1": ("#E69F00", 3.5, "-"),
    "ZeRO-2": ("#009E73", 1.5, "-"),
    "ZeRO-3": ("#CC79A7", 1.5, "--"),
}
MOST_GPUS = 1_000_000


def forecast(measured: Measured, gpus: Sequence[int], network: Network) -> list[dict]:
    """One row for every number of GPUs and strategy."""
    step_s, sizes, rows = measured.step_s, buckets(measured.tensors), []
    for world in gpus:
        for strategy in STRATEGIES:
            waits_s = exposed_s(strategy, step_s, sizes, world, network)
            states_gib = states_bytes(strategy, measured.parameter_bytes, world) / GIB
            rows.append(
                {
                    "gpus": world,
                    "strategy": strategy,
                    "tok_per_s": world * measured.tokens_per_step / (step_s + waits_s),
                    "efficiency": step_s / (step_s + waits_s),
                    "exposed_s": waits_s,
                    "states_gib": states_gib,
                    "memory_gib": states_gib + measured.activations_gib,
                }
            )
    return rows


def gpus_to_draw(gpus: Sequence[int], most: int, per_node: int) -> list[int]:
    """One GPU, those asked for, and the powers of two up to `most` that fill their nodes."""
    powers = (2**power for power in range(most.bit_length()))
    return sorted({1, *gpus, *(n for n in powers if n <= per_node or n % per_node == 0)})


def draw_lines(axes, rows: list[dict], of: str, asked: Sequence[int]) -> None:
    """A line per strategy over GPUs; dots where the table has a row."""
    for strategy, (colour, width, style) in LOOKS.items():
        own = [row for row in rows if row["strategy"] == strategy]
        axes.plot(
            [row["gpus"] for row in own],
            [row[of] for row in own],
            color=colour,
            linewidth=width,
            linestyle=style,
            marker="o",
            markersize=width + 3,
            markevery=[place for place, row in enumerate(own) if row["gpus"] in asked],
            label=strategy,
        )


def plot(
    measured: Measured,
    network: Network,
    gpus: Sequence[int],
    path: Path,
    published_point: dict | None = None,
) -> None:
    """Efficiency and memory per GPU over GPUs, to a PNG that is readable at README width."""
    from common.report.canvas import GREY, plt  # matplotlib takes a second to import

    points = [published_point] if published_point else []
    most = max([*gpus, *(point["gpus"] for point in points)])
    rows = forecast(measured, gpus_to_draw(gpus, most, network.per_node), network)
    figure, (kept, memory) = plt.subplots(1, 2, figsize=(10, 4.2))
    draw_lines(kept, rows, "efficiency", gpus)
    for point in points:
        at = point["gpus"], point["efficiency"]
        kept.plot(*at, "kX", markersize=9, label="DDP, published")
    lowest = min(row["efficiency"] for row in rows + points)
    kept.set_ylim(max(0.0, math.floor(10 * lowest - 0.5) / 10), 1.02)
    kept.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    kept.set_ylabel("efficiency: share of the single rate kept", fontsize=9)
    kept.legend(frameon=False, fontsize=9)
    draw_lines(memory, rows, "states_gib", gpus)
    rest = measured.activations_gib
    memory.set_ylim(0)
    memory.set_ylabel("weights, gradients, moments: GiB per GPU", fontsize=9)
    total = memory.secondary_yaxis("right", functions=(lambda y: y + rest, lambda y: y - rest))
    total.set_ylabel("with all else: GiB per GPU", fontsize=9)
    for axes in (kept, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks([2**n for n in range(0, most.bit_length(), 1 + most.bit_length() // 9)])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        axes.set_xlabel("GPUs")
        axes.spines["top"].set_visible(False)
        if most > network.per_node:
            axes.axvline(network.per_node, color=GREY, linewidth=0.8, linestyle=":")
    kept.spines["right"].set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(title(measured, network, most), 100)), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def gpu_counts(text: str) -> tuple[int, ...]:
    """A parser of whole numbers with commas between them: sorted, each once."""
    counts = sorted({whole(1)(part.strip()) for part in text.split(",")})
    if counts[-1] > MOST_GPUS:
        raise ArgumentTypeError(f"{counts[-1]}: must be at most {MOST_GPUS:,}")
    return tuple(counts)


def share(text: str) -> float:
    if not 0 <= (value := number(text)) <= 1:
        raise ArgumentTypeError(f"{text}: must be a number from 0 to 1")
    return value


def make_parser() -> Parser:
    parser = Parser(prog="python -m ladders.parallel.forecast", description=__doc__.splitlines()[0])
    add = parser.add_argument
    counts = (4, 8, 64, 1024)
    add("--gpus", type=gpu_counts, default=counts, metavar="N[,N…]", help="default: 4,8,64,1024")
    kinds = "nvlink|ib|pcie|GB/s"
    add("--link", default="nvlink", metavar=kinds, help="within a node; default: nvlink")
    add("--per-node", type=whole(1), default=8, metavar="N", help="GPUs in a node; default: 8")
    hides = "what part of communication can hide under computation; default: 0, the worst case"
    add("--overlap", type=share, default=0.0, metavar="0..1", help=hides)
    start = parser.add_mutually_exclusive_group()
    found = "a run: last, last-1, …, a folder, or a records.jsonl; default: last"
    start.add_argument("--records", metavar="PATH", help=found)
    start.add_argument("--published", action="store_true", help="from the published A100 figures")
    beside = "the records of steps.run --ladder parallel, to hold the forecast against them"
    start.add_argument("--against", metavar="PATH", help=beside)
    add("--rung", type=whole(0), metavar="N", help="to start from; default: the fastest")
    out = {"type": output_folder, "default": Path("results")}
    add("--out", **out, metavar="DIR", help="default: results")
    add("--json", action="store_true", help="end with a line of JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.against is not None:
        alone, rows = against.against(options.against)
        print(against.to_text(alone, rows))
        if options.json:
            print(json.dumps({"source": alone.source, "against": rows}))
        return 0
    per_node = options.per_node
    for count in options.gpus:
        if count > per_node and count % per_node:
            raise UserError(f"--gpus {count}: above one node, a multiple of --per-node {per_node}")
    if options.published:
        measured = from_published(options.rung)
    else:
        measured = from_records(
            find_run("last" if options.records is None else options.records), options.rung
        )
    network = network_of(link(options.link, measured.device), per_node, options.overlap)
    path = writable_folder("--out", options.out) / "forecast.png"
    rows = forecast(measured, options.gpus, network)
    print(to_text(measured, rows))
    print(f"\n{assumptions(measured, network)}")
    found = None
    if measured == from_published():
        found = published_ddp(measured)
        print(f"\n{calibration_text(measured, found)}")
    plot(measured, network, options.gpus, path, found)
    print(f"\nOpen {path}")
    facts = {
        "source": measured.source,
        "parameters": measured.parameters,
        **{f"gb_per_s_{k}": getattr(network, k).gb_per_s for k in ("within", "across")},
        "per_node": per_node,
        "overlap": options.overlap,
        "png": str(path),
    }
    if options.json:
        print(json.dumps(facts | {"forecast": rows, "published": found}))
    return 0

"""What more GPUs would bring: python -m ladders.parallel.forecast --gpus 4,8,64 --link nvlink

From one device's measured step and the model's gradient bytes: tokens per second, efficiency, and
memory for DDP and ZeRO-1, 2, 3. Arithmetic, not a measurement: it says what it assumes. With
--published it starts from the published A100 figures and says what would have to be true for its
arithmetic to give the published figure for four GPUs.

Units: seconds, bytes, GB/s of 1e9 bytes in one direction per GPU, GiB of 2^30 bytes.
"""

import json
import math
import re
import sys
import textwrap
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.build import padded_vocab_size
from common.comparison import read_run
from common.device import GIB
from common.errors import UserError, exit_on_user_error
from common.model import parameter_sizes
from common.options import Parser, whole, writable_folder
from common.recipe import Recipe, Shape
from common.show import PUBLISHED, memory_label
from common.table import to_frame
from steps import LADDER

STRATEGIES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")  # the index is the ZeRO stage

# Reduce-scatters and all-gathers of the whole model that run under (forward, backward). One
# all-reduce is two of them, so DDP, ZeRO-1, and ZeRO-2 send the same and ZeRO-3 half as much again:
# Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 7. That gradients are only
# reduce-scattered in stage 1, too, and the new parameters gathered under the next forward, is that
# paper's count. torch's ZeroRedundancyOptimizer sends more: an all-reduce, then broadcasts.
HALVES = {"DDP": (0, 2), "ZeRO-1": (1, 1), "ZeRO-2": (1, 1), "ZeRO-3": (1, 2)}

# Of the step's operations: backward twice forward, the update next to nothing.
# Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
FORWARD, BACKWARD = 1 / 3, 2 / 3

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes; torch.nn.parallel.DistributedDataParallel
# Okabe and Ito's palette: jfly.uni-koeln.de/color. DDP, ZeRO-1, and ZeRO-2 often coincide: thinner
# on top, so that all stay visible.
LOOKS = {
    "DDP": ("#0072B2", 6, "-"),
    "ZeRO-1": ("#E69F00", 3.5, "-"),
    "ZeRO-2": ("#009E73", 1.5, "-"),
    "ZeRO-3": ("#CC79A7", 1.5, "--"),
}
ITEM_BYTES = {"torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2}
LOWEST_GB_PER_S, HIGHEST_GB_PER_S = 1e-3, 1e5  # what --link takes, and where calibrate looks
MOST_GPUS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What one GPU sends and receives at a time."""

    name: str
    gb_per_s: float  # one direction
    latency_s: float = 0.0  # of one hop of a ring


# Rates are the vendors' datasheet values, not measurements: A100 and H100 datasheets (600 and 900
# GB/s in both directions), ConnectX-7 (400 Gb/s). PCIe 4 x16 is what NCCL counts for it, three
# quarters of 32 GB/s (src/graph/topo.cc). Latencies: NCCL, src/graph/tuning.cc, ring, Simple.
NVLINK_3 = Link(name="NVLink 3", gb_per_s=300, latency_s=3.4e-6)
NVLINK_4 = Link(name="NVLink 4", gb_per_s=450, latency_s=3.4e-6)
INFINIBAND = Link(name="InfiniBand NDR", gb_per_s=50, latency_s=14e-6)
PCIE = Link(name="PCIe 4 x16", gb_per_s=24, latency_s=5.7e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Nodes of `per_node` GPUs; every GPU has its own way out of its node."""

    within: Link
    across: Link
    per_node: int
    overlap: float  # share of what is sent that can hide under computation

    def half(self, size: float, world: int) -> float:
        """Seconds of a reduce-scatter or an all-gather of `size` bytes; an all-reduce is both.

        Rings within the nodes first; then each GPU's share goes round a ring across the nodes.
        """
        devices = min(world, self.per_node)
        return ring(size, devices, self.within) + ring(
            size / devices, world // devices, self.across
        )


def ring(size: float, world: int, link: Link) -> float:
    """Seconds of half a ring all-reduce: world - 1 hops, each of one part in `world` of the bytes.

    Twice this is 2 (n-1)/n S/B + 2 (n-1) latency. Source: Patarasuk, Yuan 2009, Bandwidth optimal
    all-reduce algorithms, J. Parallel Distrib. Comput. 69(2); NCCL's ring is the same.
    """
    return (world - 1) * (size / world / (1e9 * link.gb_per_s) + link.latency_s)


def buckets(tensors: Sequence[int]) -> list[int]:
    """Bytes of DDP's buckets, in the order they are sent, from the bytes of each parameter.

    Gradients come in the reverse order of the parameters. A bucket is closed as soon as it is
    full, so a tensor that is larger than a bucket is never cut: the embedding goes last, whole.
    """
    closed, filling = [], 0
    for size in reversed(tensors):
        filling += size
        if filling >= (BUCKET if closed else FIRST_BUCKET):
            closed.append(filling)
            filling = 0
    return [*closed, filling] if filling else closed


def exposed_s(
    strategy: str, step_s: float, sizes: Sequence[int], world: int, network: Network
) -> float:
    """Seconds of a step in which the device waits for the network. `sizes`: bytes of the buckets.

    The network's `overlap` of what is sent, but for the last bucket, hides under the forward or
    backward pass it belongs to, for as long as that lasts.
    """
    times = [network.half(size, world) for size in sizes]
    total, hideable = sum(times), network.overlap * sum(times[:-1])
    return sum(
        count * total - min(count * hideable, share * step_s)
        for count, share in zip(HALVES[strategy], (FORWARD, BACKWARD), strict=True)
    )


def efficiency(
    step_s: float,
    gradient_bytes: int | Sequence[int],
    world: int,
    link: Link,
    overlap: float = 0.0,
) -> float:
    """The share of `world` times one device's rate that DDP keeps, every device on one `link`.

    `step_s`: one device's step, alone, in seconds, with the batch that each device then has.
    `gradient_bytes`: in all, or of each parameter in the model's order.
    """
    if isinstance(gradient_bytes, int):  # then as if tensors filled the buckets exactly
        count, rest = divmod(max(0, gradient_bytes - FIRST_BUCKET), BUCKET)
        gradient_bytes = [rest, *[BUCKET] * count, min(gradient_bytes, FIRST_BUCKET)]
    network = Network(within=link, across=link, per_node=world, overlap=overlap)
    return step_s / (step_s + exposed_s("DDP", step_s, buckets(gradient_bytes), world, network))


def states_bytes(strategy: str, parameter_bytes: int, world: int) -> float:
    """Bytes per GPU of weights, gradients, and AdamW's two moments, all of the parameters' dtype.

    Stage 1 shares out the moments, stage 2 the gradients, too, stage 3 also the weights.
    Source: Rajbhandari et al. 2020, arXiv:1910.02054, figure 1; there in mixed precision.
    """
    stage = STRATEGIES.index(strategy)
    moments = 2 * parameter_bytes / (world if stage >= 1 else 1)
    gradients = parameter_bytes / (world if stage >= 2 else 1)
    weights = parameter_bytes / (world if stage >= 3 else 1)
    return weights + gradients + moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One device's training step, and the model it trained."""

    source: str  # where the figures are from
    device: str
    memory: str  # what the peak counts
    tok_per_s: float
    tokens_per_step: int
    peak_gib: float
    tensors: tuple[int, ...]  # bytes of each parameter, in the model's order
    item_bytes: int  # per parameter

    @property
    def step_s(self) -> float:
        return self.tokens_per_step / self.tok_per_s

    @property
    def parameters(self) -> int:
        return self.parameter_bytes // self.item_bytes

    @property
    def parameter_bytes(self) -> int:
        """Of the weights, and of the gradients."""
        return sum(self.tensors)

    @property
    def activations_gib(self) -> float:
        """The peak without the states: what does not shrink with more GPUs."""
        return max(0.0, self.peak_gib - states_bytes("DDP", self.parameter_bytes, 1) / GIB)


def from_records(path: str, rung: int | None) -> Measured:
    """A rung of the last run in a records file or folder, the fastest by default.

    Raises UserError where it was not measured.
    """
    records = [r for r in read_run(path) if r["series"] == "ladder"]
    try:
        frame = to_frame(records)
        rows = frame[frame["status"] == "ok"].set_index("rung")
        if rows.empty:
            raise UserError(f"{path}: no rung was measured there (status ok)")
        number = rows["tok_per_s"].idxmax() if rung is None else rung
        if number not in rows.index:
            measured = ", ".join(map(str, rows.index))
            raise UserError(f"--rung {number}: not measured in {path}; measured: {measured}")
        row = rows.loc[number]
        record = [r for r in records if r["rung"] == number and r["status"] == "ok"][-1]
        recipe, shape = record["recipe"], Shape(**record["settings"]["shape"])
        dtype = recipe.get("dtype", "torch.float32")
        return Measured(
            source=f"rung {number} ({row['name']}) of {path}, {record['date']}",
            device=record["machine"]["device"],
            memory=memory_label(record),
            tok_per_s=float(row["tok_per_s"]),
            tokens_per_step=record["measurement"]["tokens_per_step"],
            peak_gib=float(row["peak_reserved_gib"]),
            **model_facts(shape, recipe.get("vocab_multiple", 1), dtype),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: records of another kind; no use for {error}") from error


def model_facts(shape: Shape, vocab_multiple: int, dtype: str) -> dict:
    """`Measured`'s facts about the model. Raises UserError for a dtype of unknown size."""
    if dtype not in ITEM_BYTES:
        raise UserError(f"records of dtype {dtype}; known: {', '.join(ITEM_BYTES)}")
    vocab_size = padded_vocab_size(Recipe(vocab_multiple=vocab_multiple), shape)
    sizes = parameter_sizes(shape, vocab_size)
    item = ITEM_BYTES[dtype]
    return {"tensors": tuple(item * size for size in sizes), "item_bytes": item}


def published() -> pd.DataFrame:
    """The published A100 figures, by rung."""
    return pd.read_csv(PUBLISHED, comment="#").set_index("rung")


def from_published(rung: int | None = None) -> Measured:
    """A published rung on one A100, the last by default. Raises UserError for another rung."""
    number = LADDER.top if rung is None else rung
    if not 0 <= number <= LADDER.top:
        raise UserError(f"--rung {number}: on one GPU rungs 0 to {LADDER.top} are published")
    row, recipe = published().loc[number], LADDER.compose(Recipe(), range(number + 1))
    batch = 32 if number == LADDER.top else 8  # the published scripts' batch_size
    return Measured(
        source=f"rung {number} ({row['name']}), as published; not measured here",
        device="one A100",
        memory="reserved",
        tok_per_s=float(row["tok_per_s"]),
        tokens_per_step=batch * Shape().context,
        peak_gib=float(row["reserved_gib"]),
        **model_facts(Shape(), recipe.vocab_multiple, str(recipe.dtype)),
    )


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


def calibrate(
    measured: Measured, world: int, target: float, overlap: float, latency_s: float
) -> float | None:
    """The GB/s at which DDP on `world` GPUs of one node has the efficiency `target`.

    None where no rate from LOWEST_GB_PER_S to HIGHEST_GB_PER_S gives it.
    """

    def reaches(gb_per_s: float) -> bool:
        link = Link(name="tried", gb_per_s=gb_per_s, latency_s=latency_s)
        return efficiency(measured.step_s, measured.tensors, world, link, overlap) >= target

    low, high = LOWEST_GB_PER_S, HIGHEST_GB_PER_S
    if reaches(low) or not reaches(high):
        return None
    while high / low > 1 + 1e-9:  # efficiency never falls as the rate grows
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def published_ddp(measured: Measured) -> dict:
    """What would have to be true for the published figure on four GPUs (rung 11).

    `gb_per_s`: by overlap, of a ring that alone explains it; `nvlink`: efficiency by overlap;
    `lost_s`: per step; `elsewhere_s`: of it, what NVLink without overlap does not explain.
    """
    row, step_s = published().loc[LADDER.top + 1], measured.step_s
    world, latency_s = int(row["gpus"]), NVLINK_3.latency_s
    target = float(row["tok_per_s"]) / world / measured.tok_per_s
    nvlink = {o: efficiency(step_s, measured.tensors, world, NVLINK_3, o) for o in (0, 1)}
    elsewhere_s = step_s / target - step_s / nvlink[0]
    # published clock: an evaluation in every 10 steps on one GPU, in every 5 on four (eval_freq of
    # the two scripts), so that a step on four bears 1/5 - 1/10 of one more
    evaluation_s = elsewhere_s / (1 / 5 - 1 / 10)
    return {
        "gpus": world,
        "tok_per_s": float(row["tok_per_s"]),
        "efficiency": target,
        "gb_per_s": {o: calibrate(measured, world, target, o, latency_s) for o in (0, 1)},
        "nvlink": nvlink,
        "lost_s": step_s / target - step_s,
        "elsewhere_s": elsewhere_s,
        "evaluation_s": evaluation_s,
        "tok_per_s_without_evaluation": measured.tokens_per_step / (step_s - evaluation_s / 10),
        "memory_gib_more": float(row["reserved_gib"]) - measured.peak_gib,
    }


def wrapped(text: str, mark: str = "- ") -> str:
    return textwrap.fill(text, 80, initial_indent=mark, subsequent_indent=" " * len(mark))


def to_text(measured: Measured, rows: list[dict]) -> str:
    """Where it starts from, and the table; at most 80 columns."""
    lines = [
        wrapped(f"{measured.source}: {measured.device}", ""),
        wrapped(
            f"{measured.tok_per_s:,.0f} tok/s, a step of {1e3 * measured.step_s:,.1f} ms and "
            f"{measured.tokens_per_step:,} tokens; {measured.parameters:,} parameters of "
            f"{measured.item_bytes} bytes: {measured.parameter_bytes / 1e6:,.1f} MB of gradients",
            "",
        ),
        "",
        f"{'GPUs':>7}  {'strategy':<8}{'tok/s':>16}{'efficiency':>12}{'waits, ms':>12}"
        f"{'states':>9}{'all, GiB':>10}",
    ]
    for row in rows:
        gpus = f"{row['gpus']:,}" if row["strategy"] == STRATEGIES[0] else ""
        lines.append(
            f"{gpus:>7}  {row['strategy']:<8}{row['tok_per_s']:>16,.0f}{row['efficiency']:>12.1%}"
            f"{1e3 * row['exposed_s']:>12,.2f}{row['states_gib']:>9.3f}{row['memory_gib']:>10.2f}"
        )
    return "\n".join(lines)


def assumptions(measured: Measured, network: Network) -> str:
    """What the table takes for granted, in plain lines."""
    within, across = network.within, network.across
    last = buckets(measured.tensors)[-1]
    lines = [
        "A forecast by arithmetic; nothing here was measured on more than one device.",
        f"Every GPU keeps the batch of the one that was measured ({measured.tokens_per_step:,} "
        "tokens a step); tok/s is that of all GPUs.",
        f"Link in a node of {network.per_node}: {within.name}, {within.gb_per_s:g} GB/s each way "
        f"per GPU; across nodes {across.gb_per_s:g} GB/s per GPU. Datasheet values or yours, not "
        "measurements; collectives reach less.",
        "Rings (Patarasuk, Yuan 2009), in DDP's buckets of 25 MiB, the first 1 MiB, none cutting "
        f"a tensor; {1e6 * within.latency_s:g} us a hop within a node, "
        f"{1e6 * across.latency_s:g} across. NCCL may choose better than rings.",
        "DDP sends each gradient twice round the ring; so do ZeRO-1 and ZeRO-2, the second time "
        "as new parameters under the next forward; ZeRO-3 three times (arXiv:1910.02054). torch's "
        "ZeroRedundancyOptimizer sends more than ZeRO-1 here.",
        f"Backward is 2/3 of a step, forward 1/3. Of what is sent, {network.overlap:.0%} can hide "
        f"under them (--overlap), but never the last bucket, {last / 1e6:,.1f} MB, with the "
        "embedding. What hides costs the computation nothing; all GPUs are equally fast.",
        "states: weights, gradients, and AdamW's two moments, all of the parameters' "
        f"{measured.item_bytes} bytes. The rest is what was measured ({measured.memory}, "
        f"{measured.peak_gib:.2f} GiB) without them: {measured.activations_gib:.2f} GiB, the same "
        "on every GPU. Communication buffers and ZeRO-3's gathered layers are not counted.",
    ]
    if "resident" in measured.memory:
        lines.append(
            "Measured on a CPU: this shows the arithmetic, not any GPU; the peak holds Python."
        )
    return "\n".join(["What this assumes:", *map(wrapped, lines)])


def calibration_text(measured: Measured, found: dict) -> str:
    """What would have to be true; none of it is known to be."""
    rate = {
        o: f"{value:.2f} GB/s ({value / NVLINK_3.gb_per_s:.1%} of NVLink 3)" if value else "no rate"
        for o, value in found["gb_per_s"].items()
    }
    low, high = found["nvlink"].values()
    reproduces = low <= found["efficiency"] <= high
    lines = [
        f"nothing hides under backward, and the ring runs at {rate[0]}; or",
        f"all that can hide does, and the ring runs at {rate[1]}; or",
        f"the ring runs at NVLink 3's 300 GB/s. Then {low:.1%} to {high:.1%} would be kept, from "
        f"no overlap to full: {'some' if reproduces else 'no'} overlap reproduces the figure, and "
        f"{1e3 * found['elsewhere_s']:.1f} of the {1e3 * found['lost_s']:.1f} ms lost per step "
        "are lost elsewhere. Candidates in the published scripts: evaluation is inside the clock, "
        "once in 10 steps on one GPU and once in 5 on four (alone it would have to take "
        f"{found['evaluation_s']:.2f} s, and one GPU would make "
        f"{found['tok_per_s_without_evaluation']:,.0f} tok/s without it); and on four GPUs "
        # their log: 51 steps of 8 windows an epoch, so 3 of 4 x 32
        "an epoch is 3 steps, and each epoch starts the loader's workers anew, inside the clock.",
        f"Memory: {found['memory_gib_more']:.2f} GiB more are published on four than on one; "
        "gradient buckets beside the gradients (no gradient_as_bucket_view) would be "
        f"{measured.parameter_bytes / GIB:.2f}.",
    ]
    head = (
        f"What would have to be true for the published {found['tok_per_s']:,.0f} tok/s on "
        f"{found['gpus']} A100s, an efficiency of {found['efficiency']:.1%} (not what is known):"
    )
    return "\n".join([wrapped(head, ""), *map(wrapped, lines)])


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
    from common.plot import GREY, plt  # matplotlib takes a second to import

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


def title(measured: Measured, network: Network, most: int) -> str:
    """What was drawn, for up to `most` GPUs. Its spaces before units do not break."""
    across = f", {network.across.gb_per_s:g}\u00a0GB/s between nodes of {network.per_node} (dotted)"
    return (
        f"Forecast from {measured.source}: {measured.device}. Link: {network.within.name}, "
        f"{network.within.gb_per_s:g}\u00a0GB/s{across if most > network.per_node else ''}; "
        f"overlap {network.overlap:g}"
    )


def gpu_counts(text: str) -> tuple[int, ...]:
    """A parser of whole numbers with commas between them: sorted, each once."""
    counts = sorted({whole(1)(part.strip()) for part in text.split(",")})
    if counts[-1] > MOST_GPUS:
        raise ArgumentTypeError(f"{counts[-1]}: must be at most {MOST_GPUS:,}")
    return tuple(counts)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text}: must be a number from 0 to 1")
    return value


def link(text: str, device: str) -> Link:
    """The link of that name, NVLink of the device's generation, or of so many GB/s.

    Raises UserError.
    """
    nvlink = NVLINK_4 if re.search(r"\bG?H[12]00\b", device) else NVLINK_3
    named = {"nvlink": nvlink, "ib": INFINIBAND, "pcie": PCIE}
    if text in named:
        return named[text]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST_GB_PER_S <= value <= HIGHEST_GB_PER_S:
        raise UserError(
            f"--link {text}: must be one of {', '.join(named)}, or GB/s from "
            f"{LOWEST_GB_PER_S:g} to {HIGHEST_GB_PER_S:,.0f}"
        )
    return Link(name="as given", gb_per_s=value, latency_s=PCIE.latency_s)


def network_of(within: Link, per_node: int, overlap: float) -> Network:
    """Nodes with InfiniBand between them, or with the link itself where that is slower."""
    slower = min(within, INFINIBAND, key=lambda one: one.gb_per_s)
    across = Link(name=slower.name, gb_per_s=slower.gb_per_s, latency_s=INFINIBAND.latency_s)
    return Network(within=within, across=across, per_node=per_node, overlap=overlap)


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
    found = "records.jsonl, or a folder with one; default: results"
    start.add_argument("--records", metavar="PATH", help=found)
    start.add_argument("--published", action="store_true", help="from the published A100 figures")
    add("--rung", type=whole(0), metavar="N", help="to start from; default: the fastest")
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    per_node = options.per_node
    for count in options.gpus:
        if count > per_node and count % per_node:
            raise UserError(f"--gpus {count}: above one node, a multiple of --per-node {per_node}")
    if options.published:
        measured = from_published(options.rung)
    else:
        measured = from_records(
            "results" if options.records is None else options.records, options.rung
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
    facts = {
        "source": measured.source,
        "parameters": measured.parameters,
        **{f"gb_per_s_{k}": getattr(network, k).gb_per_s for k in ("within", "across")},
        "per_node": per_node,
        "overlap": options.overlap,
        "png": str(path),
    }
    print(json.dumps(facts | {"forecast": rows, "published": found}))
    return 0


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())

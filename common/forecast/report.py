"""The forecast in words: its table, what it assumes, and what the published figure would take."""

import textwrap

from common.engine.device import GIB
from common.forecast.measured import Measured
from common.forecast.network import NVLINK_3, STRATEGIES, Network, buckets


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


def title(measured: Measured, network: Network, most: int) -> str:
    """What was drawn, for up to `most` GPUs. Its spaces before units do not break."""
    across = f", {network.across.gb_per_s:g}\u00a0GB/s between nodes of {network.per_node} (dotted)"
    return (
        f"Forecast from {measured.source}: {measured.device}. Link: {network.within.name}, "
        f"{network.within.gb_per_s:g}\u00a0GB/s{across if most > network.per_node else ''}; "
        f"overlap {network.overlap:g}"
    )

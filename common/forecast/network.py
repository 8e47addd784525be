"""What a network costs a step: links, rings, DDP's buckets, and what each strategy waits and holds.

Units: seconds, bytes, GB/s of 1e9 bytes in one direction per GPU.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.engine.errors import UserError
from common.engine.options import number

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
LOWEST_GB_PER_S, HIGHEST_GB_PER_S = 1e-3, 1e5  # what --link takes, and where calibrate looks


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
NVLINK_4_BRIDGE = Link(name="NVLink 4 bridge", gb_per_s=300, latency_s=3.4e-6)
NVLINK_5 = Link(name="NVLink 5", gb_per_s=900, latency_s=3.4e-6)
NVLINKS = {  # by device; H100, H200, GH200, HGX B200 datasheets
    r"\bH100 (PCIe|NVL)\b": NVLINK_4_BRIDGE,
    r"\bG?H[12]00\b": NVLINK_4,
    r"\bG?B200\b": NVLINK_5,
}
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


def link(text: str, device: str) -> Link:
    """The link of that name, NVLink of the device's generation, or of so many GB/s.

    Raises UserError.
    """
    nvlink = next((one for pattern, one in NVLINKS.items() if re.search(pattern, device)), NVLINK_3)
    named = {"nvlink": nvlink, "ib": INFINIBAND, "pcie": PCIE}
    if text in named:
        return named[text]
    value = number(text)
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

"""What grew from step to step: memory that is asked for and never let go of."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from common.memory.sites import Line, Site, caller

LEAST_STEPS = 4  # the first one makes what stays (an optimizer's moments); then twice more
LEAST_BYTES = 1024  # a step: a list of numbers, say of losses, is none of a leak's kind
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Memory that one line asked for, and of which more was alive after every step."""

    site: Site
    trail: tuple[Line, ...]  # that led to the site, the innermost line first
    phase: str
    per_step: float  # bytes, on average
    grew: int  # bytes, from the second step's end to the last one's
    collected: int = 0  # bytes of it that collecting garbage freed: reference cycles

    def __str__(self) -> str:
        """A sentence."""
        by = caller(self.trail) if self.trail else None
        called = f", called from {by}" if by else ""
        cycles = ""
        if self.collected:
            cycles = f"; {in_mib(self.collected)} of it were in reference cycles"
        return f"{in_mib(self.per_step)} a step from {self.site}{called} ({self.phase}){cycles}"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Tensors that were made at one line in earlier steps and keep their graph alive."""

    site: Site
    trail: tuple[Line, ...]
    shape: tuple[int, ...]
    count: int

    def __str__(self) -> str:
        by = caller(self.trail) if self.trail else None
        called = f", called from {by}" if by else ""
        return (
            f"{self.count} tensor(s) {list(self.shape)} of earlier steps, made at {self.site}"
            f"{called}, keep their graphs alive, and what those hold for a backward pass that "
            "has not run; keep tensor.detach() or tensor.item() instead"
        )


def held_by(live: Iterable) -> Counter[Site]:
    """Live bytes by the line that asked for them."""
    held: Counter[Site] = Counter()
    for block in live:
        held[block.site] += block.size
    return held


def grown(
    held: list[Counter[Site]],
    asked: dict[Site, tuple[tuple[Line, ...], str]],
    collected: Counter[Site],
) -> list[Leak]:
    """The lines of which more was alive after one step than after another, the most first.

    `held`: live bytes by site at each step's end; `asked`: how each was reached; `collected`: bytes
    that only the garbage collector freed. The first step is left out, in which optimizers make what
    they keep. A line has grown if it never shrank, and grew in most of the steps.
    """
    if len(held) < LEAST_STEPS:
        return []
    found = []
    for site, last in held[-1].items():
        series = [step[site] for step in held[1:]]
        rises = [b - a for a, b in zip(series, series[1:], strict=False)]
        per_step = (last - series[0]) / len(rises)
        often = sum(rise > 0 for rise in rises) > len(rises) / 2
        if min(rises) >= 0 and often and per_step >= LEAST_BYTES:
            trail, phase = asked[site]
            found.append(
                Leak(
                    site=site,
                    trail=trail,
                    phase=phase,
                    per_step=per_step,
                    grew=last - series[0],
                    collected=collected[site],
                )
            )
    return sorted(found, key=lambda leak: -leak.grew)


def graph_kept(live: Iterable, steps: int) -> list[Graph]:
    """The last tensor of each earlier step that has a graph and is alive, by line.

    The last one stands for the others: its graph holds them.
    """
    last: dict[int, tuple] = {}
    for block in live:
        tensor = block.tensor()
        if not 0 < block.step < steps or tensor is None or tensor.grad_fn is None:
            continue
        if block.step not in last or block.order > last[block.step][0].order:
            last[block.step] = block, tuple(tensor.shape)
    by_site: dict[Site, list[tuple]] = {}
    for block, shape in last.values():
        by_site.setdefault(block.site, []).append((block, shape))
    return [
        Graph(site=site, trail=kept[0][0].trail, shape=kept[0][1], count=len(kept))
        for site, kept in by_site.items()
    ]


def in_mib(size: float) -> str:
    return f"{size / MIB:,.2f} MiB" if size >= MIB / 100 else f"{size / 1024:,.1f} KiB"

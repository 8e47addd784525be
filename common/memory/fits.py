"""Which settings fit a budget of memory, the fastest first."""

import itertools
import textwrap
from dataclasses import dataclass

from common.engine.device import GIB
from common.memory.models import Model
from common.memory.recipes import (
    AUTOCAST,
    BFLOAT16,
    CHECKPOINTED,
    CHUNKED,
    EIGHT_BIT,
    recipe_of,
)
from common.workloads.train.needs import needs

# the fastest first: 682, 620, and 419 tok/s on rung 5 of results/amd-epyc-2-cores/memory
FORMATS = {"bfloat16 throughout": (BFLOAT16,), "bfloat16 autocast": (AUTOCAST,), "float32": ()}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to make an update of so many windows, and what it needs by formula."""

    model: Model
    format: str
    checkpointed: bool
    parts: int
    windows: int  # of a part
    chunked: bool
    eight_bit: bool

    @property
    def slowness(self) -> tuple:
        """Order of speed, by what is known: checkpointing costs up to a third, the format up to
        half, smaller products more than chunks of the loss, and 8-bit moments a long update.
        """
        format_ = list(FORMATS).index(self.format)
        return self.eight_bit, self.checkpointed, format_, self.parts, self.chunked

    @property
    def peak(self) -> float:
        rungs = [
            *((CHUNKED,) if self.chunked else ()),
            *((CHECKPOINTED,) if self.checkpointed else ()),
            *FORMATS[self.format],
            *((EIGHT_BIT,) if self.eight_bit else ()),
        ]
        recipe = recipe_of(tuple(rungs), self.parts * self.windows, self.parts)
        return needs(self.model.shape, recipe).peak

    def __str__(self) -> str:
        more = ("checkpointed", self.checkpointed), ("chunked loss", self.chunked)
        more += (("8-bit moments", self.eight_bit),)
        said = [self.format, f"{self.parts} x {self.windows}", *(name for name, on in more if on)]
        return ", ".join(said)


def settings(model: Model, windows: int) -> list[Setting]:
    """All ways to make an update of so many windows, the fastest first."""
    parts = [n for n in range(1, windows + 1) if windows % n == 0]
    switches = (False, True)
    found = [
        Setting(
            model=model,
            format=format_,
            checkpointed=checkpointed,
            parts=count,
            windows=windows // count,
            chunked=chunked,
            eight_bit=eight_bit,
        )
        for format_, checkpointed, count, chunked, eight_bit in itertools.product(
            FORMATS, switches, parts, switches, switches
        )
    ]
    return sorted(found, key=lambda setting: setting.slowness)


def fitting(model: Model, windows: int, budget: float) -> list[Setting]:
    """Of each format, with and without checkpointing, the fastest that fits."""
    found: dict[tuple, Setting] = {}
    for setting in settings(model, windows):
        kind = setting.format, setting.checkpointed
        if kind not in found and setting.peak <= budget:
            found[kind] = setting
    return [*found.values()]


def least(model: Model, windows: int) -> Setting:
    """The setting that needs the least."""
    return min(settings(model, windows), key=lambda setting: setting.peak)


def to_text(model: Model, windows: int, budget: float, found: list[Setting]) -> str:
    """What fits, or the least that would, for one model; at most 80 columns."""
    if not found:
        return textwrap.fill(f"{model.name}: {nothing(model, windows)}", 80)
    lines = [f"{model.name}, an update of {windows} windows, in {budget / GIB:.2f} GiB:"]
    lines += [f"{setting.peak / GIB:>8.2f} GiB  {setting}" for setting in found]
    return "\n".join(lines)


def nothing(model: Model, windows: int) -> str:
    smallest = least(model, windows)
    return f"nothing fits; the least is {smallest.peak / GIB:.2f} GiB ({smallest})"


ORDER = (
    "The fastest first, by what is known: without checkpointing before with it, fewer and larger "
    "parts (2 x 4: two of four windows, whose gradients add up) before more. bfloat16 throughout "
    "rounds small updates away: look at the held-out loss; autocast does not. By formula; leave "
    "room for an allocator and, on GPUs, for CUDA's context."
)

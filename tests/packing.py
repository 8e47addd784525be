"""A workload that has nothing to do with training, and never imports torch: packing a text."""

import sys
import zlib
from dataclasses import dataclass, replace
from types import SimpleNamespace

from common.engine.contract import NotEquivalent, NotInEffect, Numerics
from common.engine.ladder import Ladder
from common.engine.metric import BRIEF, EXACT, LOWER, Metric
from common.engine.purpose import Purpose
from common.engine.session import Session
from common.engine.workload import Check, Workload

TEXT = b"".join(b"%d bottles on the wall\n" % number for number in range(3000))


@dataclass(frozen=True)
class Packer:
    level: int = 0
    window: int = 9  # the logarithm of how far back it looks
    lose: int = 0  # bytes that are not packed: a fault


class Packing(Session):
    def __init__(self, recipe: Packer, settings) -> None:
        super().__init__(settings)
        self.recipe = recipe

    def step(self) -> None:
        self.packed = pack(self.recipe)

    def values(self, timed, tell) -> dict:
        return {"file_bytes": len(self.packed), "torch": "torch" in sys.modules}


class Pack(Workload):
    def check(self, recipe, against, settings, place) -> Check:
        if zlib.decompress(pack(recipe)) != TEXT:
            raise NotEquivalent("what is unpacked is not what was packed")
        return Check(claim=against.numerics, error=0.0, where="text", limit=0.0)

    def build(self, recipe, settings, place) -> Packing:
        return Packing(recipe, settings)


def pack(recipe: Packer) -> bytes:
    packer = zlib.compressobj(recipe.level, wbits=recipe.window)
    return packer.compress(TEXT[: len(TEXT) - recipe.lose]) + packer.flush()


def measured(key: str):
    return lambda record: record["measurement"].get(key)


SIZE = Metric(name="file_bytes", title="file, bytes", of=measured("file_bytes"), better=LOWER,
              noise=EXACT, words=("smaller", "larger"), shown=BRIEF)  # fmt: skip
WORKLOAD = Pack(address="tests.packing:WORKLOAD", metrics=(SIZE,), recipe=Packer)


def rung(number: int, title: str, **changes) -> SimpleNamespace:
    def in_effect(run: Packing) -> str:
        for name, value in changes.items():
            if getattr(run.recipe, name) != value:
                raise NotInEffect(f"{name} is not {value}")
        return ", ".join(f"{name} {value}" for name, value in changes.items())

    return SimpleNamespace(
        __doc__=f"{number}. {title}.",
        CHANGES=tuple(changes),
        NUMERICS=Numerics.EXACT,
        applies=lambda device, recipe: None,
        in_effect=in_effect,
        apply=lambda recipe: replace(recipe, **changes),
    )


LADDER = Ladder(
    name="tests.packing",
    purpose=Purpose(
        name={"en": "Packing", "ja": "荷造り"},
        about={"en": "The bytes of a file.", "ja": "ファイルのバイト数。"},
    ),
    workload=WORKLOAD,
    modules=(rung(1, "Fast", level=1), rung(2, "Loses", lose=1), rung(3, "Thorough", level=9)),
)

"""What a checkpoint says of itself: what was trained on what, where it was, and its loss curve."""

import json
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from common.gpt.shape import Shape
from common.gpt.text import VOCABULARY, Text
from common.workloads.train.recipe import Recipe

POSITION = "position.json"
# not of the identity: a batch and its parts may change, and where no compiler is found nothing is
# compiled
NOT_IDENTITY = ("batch_size", "accumulation", "compile")
PLAIN = {"recipe": Recipe().to_json()}  # of choices that came after a checkpoint


@dataclass(frozen=True)
class Position:
    """Where training is: `batches` of the epoch and `steps` in all are done."""

    epoch: int = 1
    batches: int = 0
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A whole checkpoint."""

    path: Path
    position: Position
    batch_size: int  # of each process
    processes: int
    device: str  # its type
    history: list[tuple]  # (step, train loss, validation loss, learning rate)
    identity: dict
    updates: int | None = None  # over which the learning rate's schedule went

    @property
    def windows(self) -> int:
        """Of a step, in all processes."""
        return self.batch_size * self.processes


def identity_of(shape: Shape, recipe: Recipe, text: Text) -> dict:
    """What must be the same for training to go on."""
    choices = {k: v for k, v in recipe.to_json().items() if k not in NOT_IDENTITY}
    return {
        "shape": asdict(shape),
        "recipe": choices,
        "text": {"sha256": text.sha256[:16]},
        "vocabulary": VOCABULARY,
    }


def unlike(theirs: dict, ours: dict) -> str:
    """What differs between two identities, in words; empty: nothing."""
    found = []
    for name, own in ours.items():
        if not isinstance(other := theirs.get(name), dict):
            found.append(f"another {name} (it does not say which)")
            continue
        other = PLAIN.get(name, {}) | other
        if changed := [key for key in own if other.get(key) != own[key]]:
            changes = (f"{k} {other.get(k)}, not {own[k]}" for k in changed)
            found.append(f"another {name} ({'; '.join(changes)})")
    return " and ".join(found)


def read(path: Path) -> Found | None:
    """The checkpoint in a folder; None if it is not whole."""
    try:
        told = json.loads((path / POSITION).read_text(encoding="utf-8"))
        whole = all((path / n).stat().st_size == size for n, size in told["files"].items())
        found = Found(
            path=path,
            position=Position(*(int(told[key]) for key in ("epoch", "batches", "steps"))),
            batch_size=int(told["batch_size"]),
            processes=int(told["processes"]),
            device=str(told.get("device")),
            history=[point(*row) for row in told.get("history", ())],
            updates=told.get("updates"),
            identity={key: told.get(key) for key in ("recipe", "text", "vocabulary")}
            | {"shape": dict(told["shape"])},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if whole and found.windows > 0 else None


def point(step, train, validation, rate=None) -> tuple:
    """Of a loss curve; older ones tell no learning rate."""
    return int(step), float(train), float(validation), None if rate is None else float(rate)


def converted(found: Found, windows: int, last: int) -> Position:
    """Where the same windows of the epoch are done in steps of so many windows, `last` an epoch.

    A step of all processes together takes the next windows of the epoch's one order, however many
    share it (torch's DistributedSampler), so that none is left out.
    """
    epoch, batches, steps = astuple(found.position)
    batches = batches * found.windows // windows
    return Position(epoch, batches, steps) if batches < last else Position(epoch + 1, 0, steps)

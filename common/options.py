"""The command-line options that the runner and the three scripts share, written down once."""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from common import presets
from common.device import TYPES, DeviceFacts
from common.engine.errors import UserError
from common.recipe import Recipe, Shape


class Parser(argparse.ArgumentParser):
    """argparse, with one sentence for a mistake instead of the whole usage."""

    def error(self, message: str):
        raise UserError(message.replace("argument ", "", 1))


def whole(least: int):
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least} on")
        return int(text)

    return parse


def above_zero(unit: str):
    """A parser of numbers above 0, of seconds, say."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: must be a number of {unit} above 0")
        return value

    return parse


seconds, minutes = above_zero("seconds"), above_zero("minutes")


def probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to below 1")
    return value


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """What to train, on which device, on which text."""
    group = parser.add_argument_group("workload")
    names = ("auto", *presets.PRESETS)
    group.add_argument("--preset", choices=names, default="auto", help="default: auto")
    group.add_argument("--layers", type=whole(1), metavar="N", help="transformer blocks")
    group.add_argument("--heads", type=whole(1), metavar="N", help="attention heads in a block")
    group.add_argument("--emb-dim", type=whole(1), metavar="N", help="model width")
    group.add_argument("--context", type=whole(1), metavar="N", help="tokens in a window")
    group.add_argument("--batch-size", type=whole(1), metavar="N", help="windows in a step")
    group.add_argument("--dropout", type=probability, metavar="P", help="0 to below 1")
    group.add_argument("--device", default="auto", metavar="|".join(TYPES), help="default: auto")
    group.add_argument("--text", metavar="FILE", help="UTF-8 text to train on")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A preset with the user's changes."""

    preset: str
    shape: Shape
    recipe: Recipe  # the baseline's
    note: str  # what was chosen for the user, if anything

    @property
    def defaults(self) -> presets.Preset:
        return presets.PRESETS[self.preset]


def workload(options: argparse.Namespace, device: DeviceFacts) -> Workload:
    """Raises UserError where the options do not fit together."""
    if options.preset == "auto":
        preset, recipe, note = presets.auto(device)
    else:
        preset, recipe = options.preset, presets.baseline(options.preset)
        note = presets.PRESETS[preset].note
    given = {k: v for k, v in vars(options).items() if v is not None}
    shape_fields = ("layers", "heads", "emb_dim", "context")
    shape = replace(
        presets.PRESETS[preset].shape, **{k: given[k] for k in shape_fields if k in given}
    )
    recipe = replace(recipe, **{k: given[k] for k in ("batch_size", "dropout") if k in given})
    if shape.emb_dim % shape.heads:
        divisors = [n for n in range(1, shape.emb_dim + 1) if shape.emb_dim % n == 0]
        allowed = ", ".join(map(str, divisors))
        raise UserError(
            f"--heads {shape.heads}: does not divide --emb-dim {shape.emb_dim}; allowed: {allowed}"
        )
    return Workload(
        preset=preset,
        shape=shape,
        recipe=recipe,
        note="" if recipe.dropout and preset != "gpt2" else note,
    )


def writable_folder(option: str, folder: Path) -> Path:
    """The folder, made if need be. Raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option} {folder}: cannot be written ({reason})") from error
    return folder

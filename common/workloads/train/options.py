"""The options that say what to train, shared by ladders and scripts."""

import argparse
from dataclasses import dataclass, replace

from common.engine.device import TYPES, DeviceFacts
from common.engine.errors import UserError
from common.engine.options import Parser, number, probability, whole
from common.gpt.shape import Shape
from common.workloads.train import presets
from common.workloads.train.recipe import Recipe

MOST = 1_000_000  # of widths, windows, and tokens: far beyond any model, and still counted at once


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """What to train, on which device, on which text."""
    group = add_model_options(parser)
    group.add_argument("--batch-size", type=whole(1, MOST), metavar="N", help="windows in a step")
    group.add_argument("--dropout", type=probability, metavar="P", help="0 to below 1")


def add_model_options(parser: argparse.ArgumentParser):
    """The model, the device, and the text; gives the group, for what else belongs there."""
    group = parser.add_argument_group("workload")
    names = ("auto", *presets.PRESETS)
    shapes = "; ".join(f"{name}: {preset}" for name, preset in presets.PRESETS.items())
    about = f"{shapes}; default: auto, which is gpt2 on accelerators and cpu on CPUs"
    group.add_argument("--preset", choices=names, default="auto", help=about)
    group.add_argument("--layers", type=whole(1, 10_000), metavar="N", help="transformer blocks")
    group.add_argument("--heads", type=whole(1, MOST), metavar="N", help="attention heads")
    group.add_argument("--emb-dim", type=whole(1, MOST), metavar="N", help="model width")
    group.add_argument("--context", type=whole(1, MOST), metavar="N", help="tokens in a window")
    group.add_argument("--device", default="auto", metavar="|".join(TYPES), help="default: auto")
    group.add_argument("--text", metavar="FILE", help="UTF-8 text to train on")
    return group


def base_steps(options: argparse.Namespace, usual: int) -> int:
    """That a base model is trained for. Raises UserError where a file's weights are not."""
    if options.weights is None:
        return usual if options.base_steps is None else options.base_steps
    if options.base_steps is not None:
        raise UserError("--base-steps: without --weights, which is not trained here")
    return 0


def norm(text: str) -> float:
    """What gradients are clipped to."""
    if not 0 < (value := number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return value


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A preset with the user's changes."""

    preset: str
    shape: Shape
    recipe: Recipe  # the baseline's
    note: str  # what was chosen for the user, if anything

    @property
    def defaults(self) -> presets.Preset:
        return presets.PRESETS[self.preset]


def chosen(options: argparse.Namespace, device: DeviceFacts) -> Chosen:
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
    return Chosen(
        preset=preset,
        shape=shape,
        recipe=recipe,
        note="" if recipe.dropout and preset != "gpt2" else note,
    )


def typed(options) -> list[str]:
    """The workload options that were given, as a command line has them."""
    parser = Parser()
    add_workload_options(parser)
    defaults, found = vars(parser.parse_args([])), []
    for name, default in defaults.items():
        if (value := getattr(options, name)) != default:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found

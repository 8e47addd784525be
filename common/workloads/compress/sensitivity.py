"""What each matrix costs in each format: bytes of the file, and loss on the calibration text.

Each is measured with only that matrix in that format. That such changes add up is an assumption; a
mix that was chosen by them is measured, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import mean

import torch
from torch.nn import functional as F

from common.engine.errors import UserError
from common.workloads.compress import files
from common.workloads.compress.calibration import Statistics
from common.workloads.compress.choices import Everything
from common.workloads.compress.formats import Plain
from common.workloads.compress.model import Model, file_of, matrix_bytes, of_parts
from common.workloads.compress.parts import Parts
from common.workloads.compress.settings import Settings

WINDOWS = 4  # of calibration, on which a change of the loss is measured
ROOM = 64  # bytes of the header that the digits of its numbers may take more
Options = dict[str, dict[str, tuple[int, float]]]  # bytes and change of loss, by matrix and label


@torch.no_grad()
def loss_of(model: Model, windows: list[torch.Tensor]) -> float:
    """Mean loss in nats on windows (T + 1,)."""
    losses = (F.cross_entropy(model(ids[None, :-1])[0].float(), ids[1:]).item() for ids in windows)
    return mean(losses)


def measured(parts: Parts, formats: Mapping, base) -> Iterator[tuple[str, str, int, float]]:
    """A matrix, a label, bytes, and the change of the loss. `formats`: recipes by label."""
    inputs, windows = Statistics(parts, base.calibration).maker, base.calibration[:WINDOWS]
    plain = loss_of(of_parts(parts), windows)
    for name, weight in parts.matrices.items():
        for label, recipe in formats.items():
            own = recipe.format.store(weight, recipe, inputs(name))
            size = sum(tensor.nbytes for tensor in own.values())
            changed = parts.matrices | {name: recipe.format.dense(own).float()}
            model = of_parts(replace(parts, matrices=changed))
            yield name, label, size, loss_of(model, windows) - plain


def options_of(parts: Parts, formats: Mapping, base) -> Options:
    found: Options = {name: {} for name in parts.matrices}
    for name, label, size, change in measured(parts, formats, base):
        found[name][label] = size, change
    return found


def change_of_mix(parts: Parts, recipes: Mapping, base) -> float:
    """The change of the loss on the same windows, all matrices at once."""
    inputs, windows = Statistics(parts, base.calibration).maker, base.calibration[:WINDOWS]
    dense = {
        name: own.format.dense(own.format.store(weight, own, inputs(name))).float()
        for name, weight in parts.matrices.items()
        for own in [recipes[name]]
    }
    mixed = of_parts(replace(parts, matrices=dense))
    return loss_of(mixed, windows) - loss_of(of_parts(parts), windows)


# -- bytes --


def bytes_of(parts: Parts, recipes: Mapping) -> tuple[int, int]:
    """The file's bytes, and those of its matrices. The parts may be on no device (meta)."""
    tensors, metadata = file_of(parts, recipes, lambda name: None)
    return files.file_bytes(tensors, metadata), matrix_bytes(tensors, metadata)


def without_numbers(parts: Parts) -> Parts:
    """The same shapes on no device."""
    matrices, plain = (
        {k: v.to("meta") for k, v in own.items()} for own in (parts.matrices, parts.plain)
    )
    return replace(parts, matrices=matrices, plain=plain)


def budget_of(parts: Parts, recipe, settings: Settings) -> int:
    """Bytes that the file may have: as asked for, or a sixth of float32's."""
    if settings.budget_bytes is not None:
        return settings.budget_bytes
    plain = replace(recipe, format=Plain, dtype=torch.float32, choice=Everything)
    return bytes_of(without_numbers(parts), dict.fromkeys(parts.matrices, plain))[0] // 6


def room_for_matrices(parts: Parts, smallest, budget: int) -> int:
    """The budget less what is no matrix. Raises UserError where nothing fits."""
    whole, own = bytes_of(without_numbers(parts), dict.fromkeys(parts.matrices, smallest))
    if whole + ROOM > budget:
        raise UserError(
            f"--budget-bytes {budget:,}: nothing fits; the smallest mix of formats takes "
            f"{whole + ROOM:,} bytes"
        )
    return budget - (whole - own) - ROOM

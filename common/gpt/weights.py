"""Parameters in a file that loads into every rung's model: by name, without padding."""

import os
import tempfile
from pathlib import Path

import torch
from torch import nn

from common.engine.errors import UserError
from common.gpt.shape import Shape

PADDED = ("token_embedding.weight", "head.weight")  # (V, C) each, one row per vocabulary id


def unpadded_state(model: nn.Module, shape: Shape) -> dict[str, torch.Tensor]:
    """The state_dict that fits every rung: padding rows cut off."""
    state = model.state_dict()
    return state | {name: state[name][: shape.vocab_size].clone() for name in PADDED}


@torch.no_grad()
def load_unpadded_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load what `unpadded_state` gave, of any rung, into this one: padding and dtype as built.

    Raises RuntimeError, naming the parameters, if the state is of another shape.
    """
    own = model.state_dict()
    padded = {
        name: torch.cat([state[name].to(own[name]), own[name][len(state[name]) :]])
        for name in PADDED
        if name in state and state[name].shape[1:] == own[name].shape[1:]
    }
    model.load_state_dict(state | padded)


def save(model: nn.Module, shape: Shape, path: Path) -> None:
    """Write the checkpoint beside its place and rename it, so that no half of one is ever seen.

    Raises UserError if it cannot be written; what was there before is then still there.
    """
    path = path.resolve()  # of a link, what it leads to
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(unpadded_state(model, shape), file)
            os.fsync(handle)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's own writer
        Path(temporary).unlink(missing_ok=True)
        raise UserError(f"--save {path}: cannot be written ({in_short(error)})") from error


def load(model: nn.Module, path: Path) -> None:
    """Raises UserError if the file is missing, is no checkpoint, or is of another shape."""
    try:
        state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        load_unpadded_state(model, state)
    except Exception as error:  # torch.load raises what the damage happens to cause
        raise UserError(
            f"--load {path}: no checkpoint of this shape ({in_short(error)})"
        ) from error


def in_short(error: BaseException) -> str:
    """What went wrong, in a few words: the system's own, where it was the system."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):  # torch's writer hides a full disk
        cause = cause.__cause__ or cause.__context__
    told = getattr(cause, "strerror", None) or str(error)
    return (told.splitlines() or [type(error).__name__])[0][:150]

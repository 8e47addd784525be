"""Parameters in a file that loads into every rung's model: by name, without padding."""

from pathlib import Path

import torch

from common.build import PADDED, Run
from common.engine.errors import UserError


def unpadded_state(run: Run) -> dict[str, torch.Tensor]:
    """The state_dict that fits every rung: padding rows cut off."""
    state = run.inner.state_dict()
    return state | {name: state[name][: run.shape.vocab_size].clone() for name in PADDED}


@torch.no_grad()
def load_unpadded_state(run: Run, state: dict[str, torch.Tensor]) -> None:
    """Load what `unpadded_state` gave, of any rung, into this one: padding and dtype as built.

    Raises RuntimeError, naming the parameters, if the state is of another shape.
    """
    own = run.inner.state_dict()
    padded = {
        name: torch.cat([state[name].to(own[name]), own[name][len(state[name]) :]])
        for name in PADDED
        if name in state and state[name].shape[1:] == own[name].shape[1:]
    }
    run.inner.load_state_dict(state | padded)


def save(run: Run, path: Path) -> None:
    """Write the checkpoint beside its place and rename it, so that no half of one is ever seen."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(unpadded_state(run), temporary)
    temporary.replace(path)


def load(run: Run, path: Path) -> None:
    """Raises UserError if the file is missing, is no checkpoint, or is of another shape."""
    try:
        state = torch.load(path, map_location=run.device, weights_only=True)
        load_unpadded_state(run, state)
    except Exception as error:  # torch.load raises what the damage happens to cause
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--load {path}: no checkpoint of this shape ({first[:150]})") from error

"""How a training step is measured."""

from dataclasses import dataclass

from common.engine import session
from common.gpt.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Settings(session.Settings):
    """The same for every rung of a run."""

    shape: Shape
    text: str | None = None  # a file; None: what `read_text` finds
    headroom_gib: float = 0.0  # device memory to leave free
    validate: bool = False  # also the loss on held-out text, after the timed steps
    profile: bool = False  # a few steps more, after the timed ones
    trace: str | None = None  # a file for what the profile saw

    @classmethod
    def from_json(cls, plain: dict) -> "Settings":
        return cls(**plain | {"shape": Shape(**plain["shape"])})

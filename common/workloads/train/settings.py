"""How a training step is measured."""

from dataclasses import dataclass

from common.engine import session
from common.gpt.shape import Shape


@dataclass(frozen=True, kw_only=True)
class ModelSettings(session.Settings):
    """How anything of a GPT-2 is measured."""

    shape: Shape

    def to_json(self) -> dict:
        """As it comes back from a file."""
        values = super().to_json()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_json(cls, values: dict) -> "ModelSettings":
        own = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**own | {"shape": Shape(**values["shape"])})


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """The same for every rung of a run."""

    text: str | None = None  # a file; None: what `read_text` finds
    headroom_gib: float = 0.0  # device memory to leave free
    validate: bool = False  # also the loss on held-out text, after the timed steps
    profile: bool = False  # a few steps more, after the timed ones
    trace: str | None = None  # a file for what the profile saw

"""How compressing is measured."""

from dataclasses import dataclass

from common.workloads.train.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """The same for every rung of a run. A timed step decodes `new_tokens` after the prompt."""

    text: str | None = None  # a file; None: what `read_text` finds
    calibration: str | None = None  # a file; None: windows of the text that is trained on
    prompt_tokens: int = 96
    new_tokens: int = 32
    weights: str | None = None  # a file; None: the base model
    base_steps: int = 300  # that the base model is trained for
    tune_steps: int = 60  # that a rung, and its control, train on
    windows: int = 32  # held out, that losses are compared on
    calibration_windows: int = 16
    budget_bytes: int | None = None  # of the file with formats mixed; None: a sixth of float32's

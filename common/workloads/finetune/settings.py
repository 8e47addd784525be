"""How finetuning is measured."""

from dataclasses import dataclass

from common.workloads.train.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """The same for every rung of a run. A step is an update; half of all are on each text."""

    text: str | None = None  # the base's, a file; None: half of what `read_text` finds
    tasks: tuple[str, ...] = ()  # two files; none: what every Python carries
    weights: str | None = None  # a file; None: a base model, trained here
    base_steps: int = 0  # that the base model is trained for; 0: untrained
    seed: int = 0  # of the windows' order and the new parameters; 0: while rates are tried

    @property
    def updates(self) -> int:
        """On each text, those of the warm-up counted in."""
        return (self.warmup + self.steps) // 2

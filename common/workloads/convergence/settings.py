"""How the way to a loss is measured."""

from dataclasses import dataclass, field

from common.workloads.train import settings


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """The same for every rung of a run, but for the seed."""

    tokens: int  # that a run trains on, or a few less: whole updates
    seed: int = 0  # of the weights and of the order of windows; 0: the pilot's, and the tuning's
    target: float | None = None  # held-out loss, nats a token; None: in the pilot
    pilot: dict = field(default_factory=dict)  # what the target comes from; see pilot.py

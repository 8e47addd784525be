"""How training on documents is measured."""

from dataclasses import dataclass

from common.workloads.train import settings


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """The same for every rung of a run. A timed step is an epoch."""

    docs: str | None = None  # a folder; None: the standard library's docstrings
    documents: int = 64  # in an epoch

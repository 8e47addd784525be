"""What a rung of the ladder `environment` may change: variables of the command's environment."""

import os
from dataclasses import dataclass, fields

Variables = tuple[str, ...]  # "NAME=value"


@dataclass(frozen=True, kw_only=True)
class CommandRecipe:
    """Variables by what they are for, beside the user's own."""

    allocator: Variables = ()
    threads: Variables = ()
    binding: Variables = ()
    tf32: Variables = ()
    cuda_allocator: Variables = ()
    inductor: Variables = ()

    @property
    def environment(self) -> dict[str, str]:
        each = (setting for field in fields(self) for setting in getattr(self, field.name))
        return dict(setting.split("=", 1) for setting in each)


def already_set(*names: str) -> str | None:
    """Why a rung leaves a variable alone: the user has set it."""
    found = (f"{name} is set to {os.environ[name]} already" for name in names if name in os.environ)
    return next(found, None)

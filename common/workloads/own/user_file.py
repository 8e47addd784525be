"""The file that a user names: its functions, and their mistakes as one sentence each.

model()                     an nn.Module
batch(batch_size, device)   whatever loss takes; tensors, in tuples, lists, and dicts
loss(model, batch)          a scalar tensor
optimizer(model)            may be left out: AdamW
units(batch)                may be left out: how many items it holds, tokens, say; else samples
"""

import hashlib
import importlib
import importlib.util
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from common.engine.errors import UserError, in_short, out_of_memory

NEEDED = {
    "model": "model() that returns the nn.Module",
    "batch": "batch(batch_size, device) that returns a batch",
    "loss": "loss(model, batch) that returns a scalar tensor",
}
LEARNING_RATE = 3e-4  # of the default optimizer


def found(text: str) -> tuple[Path, str]:
    """Where the file is that --model names, and its dotted name, if it was named so.

    Nothing is run. Raises UserError.
    """
    path = Path(text)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise UserError(f"--model {text}: no such file")
        return path.resolve(), ""
    parts = Path(*text.split("."))
    if all(part.isidentifier() for part in text.split(".")):
        for root in map(Path, ("", *sys.path)):
            for path in (root / parts.with_suffix(".py"), root / parts / "__init__.py"):
                if path.is_file():
                    return path.resolve(), text
    raise UserError(f"--model {text}: neither a file (my_model.py) nor a module that can be found")


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class UserFile:
    """Its functions. They raise UserError, with the file's line, for what its code raises."""

    def __init__(self, path: Path, name: str = "", sha256: str = "") -> None:
        """Run the file. `sha256`: what it must be, if anything."""
        self.path = path
        if sha256 and hash_of(path) != sha256:
            raise UserError(f"{path.name} has changed since the run began: start a new one")
        sys.path.insert(0, str(root_of(path, name)))  # as if it were started by itself
        with self.telling("it"):
            self.module = importlib.import_module(name) if name else self.run()
        for function, what in NEEDED.items():
            if not callable(getattr(self.module, function, None)):
                raise UserError(f"--model {path.name}: it lacks a function {what}")

    def run(self):
        spec = importlib.util.spec_from_file_location("own_model", self.path)
        if spec is None:
            raise UserError(f"--model {self.path}: not a Python file; its name must end with .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # what pickles or looks at annotations finds it there
        spec.loader.exec_module(module)
        return module

    @contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Say of an error in the user's code what raised it, and at which line of the file."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            traceback.print_exc()  # the whole of it, into the process's log
            line = self.line_of(error)
            at = f" (line {line} of {self.path.name})" if line else ""
            raise UserError(
                f"--model {self.path.name}: {what} raised {in_short(error)}{at}"
            ) from error

    def line_of(self, error: BaseException) -> int | None:
        """The last line of the file on the way to the error."""
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return error.lineno
        frames = traceback.extract_tb(error.__traceback__)
        return next((f.lineno for f in reversed(frames) if f.filename == str(self.path)), None)

    def model(self) -> nn.Module:
        with self.telling("model()"):
            model = self.module.model()
        if not isinstance(model, nn.Module):
            raise self.wrong("model()", model, "an nn.Module")
        return model

    def batch(self, size: int, device: str):
        with self.telling(f"batch({size}, {device!r})"):
            return self.module.batch(size, device)

    def loss(self, model: nn.Module, batch) -> torch.Tensor:
        """A scalar, ()."""
        with self.telling("loss(model, batch)"):
            loss = self.module.loss(model, batch)
        if not isinstance(loss, torch.Tensor):
            raise self.wrong("loss(model, batch)", loss, "a scalar tensor")
        if loss.numel() != 1:
            shape = tuple(loss.shape)
            raise UserError(
                f"--model {self.path.name}: loss(model, batch) returned a tensor of shape {shape}; "
                "it must be a scalar: take its mean"
            )
        return loss.reshape(())

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The user's, or AdamW."""
        make = getattr(self.module, "optimizer", None)
        if make is None:
            trained = [p for p in model.parameters() if p.requires_grad]
            return torch.optim.AdamW(trained, lr=LEARNING_RATE)
        with self.telling("optimizer(model)"):
            optimizer = make(model)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise self.wrong("optimizer(model)", optimizer, "a torch.optim.Optimizer")
        return optimizer

    def units(self, batch) -> float:
        """How many items a batch holds: by default its samples."""
        count = getattr(self.module, "units", None)
        if count is None:
            return samples(batch) or 1
        with self.telling("units(batch)"):
            return float(count(batch))

    @property
    def counts(self) -> str:
        """What an item is."""
        own = hasattr(self.module, "units")
        return f"what units(batch) of {self.path.name} counts" if own else "samples"

    def wrong(self, what: str, got, wanted: str) -> UserError:
        kind = type(got).__name__
        return UserError(f"--model {self.path.name}: {what} returned {kind}; it must be {wanted}")


def root_of(path: Path, name: str) -> Path:
    """The folder from which imports start: that of the file, or of its outermost package."""
    inside = path.parent if path.name == "__init__.py" else path
    return inside.parents[name.count(".")]


def samples(batch) -> int:
    """How many samples a batch holds: the commonest first dimension of its tensors; 0: unknown."""
    sizes = [leaf.shape[0] for leaf in tensors(batch) if leaf.ndim]
    return max(sizes, key=sizes.count, default=0)


def tensors(batch) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]


def seed_all(seed: int) -> None:
    """Every generator that a user's code is likely to draw from, NumPy's old one too."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)

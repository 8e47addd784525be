"""The texts: half of one for the base, and two that it is adapted to. Nothing is fetched."""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.records import is_file, write_atomically
from common.gpt.shape import Shape
from common.gpt.text import Text, Windows, read_text, read_text_file, read_tokens, split
from common.workloads.batches.documents import read_documents
from common.workloads.generate.base import Weights, weights_for
from common.workloads.generate.settings import Settings as BaseSettings

HELD_OUT = 8  # windows at most, that a loss is the mean of
PACKAGE = "asyncio"  # of the standard library, whose code is the second text


@dataclass(frozen=True)
class TaskText:
    """A text to adapt to: windows to train on, to choose a learning rate by, and to report."""

    source: str
    sha256: str
    windows: Windows
    tuning: list[int]  # numbers of held-out windows
    test: list[int]
    held_out: Windows


def base_text(path: str | None) -> Path:
    """A file with the first half of the text: the base knows nothing of the rest.

    Raises UserError where the text cannot be had.
    """
    content = read_text(path).content
    half = content[: len(content) // 2].encode()
    file = cache_dir() / f"half-{hashlib.sha256(half).hexdigest()[:16]}.txt"
    if not is_file(file) or file.read_bytes() != half:
        try:
            write_atomically(file, half)
        except OSError as error:
            said = f"the base's text: {file} cannot be written ({error.strerror})"
            raise UserError(said) from error
    return file


def base_weights(settings, say=None) -> Weights:
    """The base model's, trained here on half of the text, or of a file. Raises UserError."""
    wanted = BaseSettings(
        shape=settings.shape,
        text=str(base_text(settings.text)),
        weights=settings.weights,
        base_steps=settings.base_steps,
    )
    return weights_for(wanted, say)


def read_task(place: int, path: str | None) -> Text:
    """The first or second text to adapt to: a file, or what every Python carries."""
    if path is not None:
        return Text(path, read_text_file(Path(path), "--tasks"))
    return docstrings() if place == 0 else code()


def docstrings() -> Text:
    documents = read_documents()
    return Text(documents.source, "\n\n".join(documents.texts))


def code() -> Text:
    """A package's modules, of which the docstrings above have none."""
    folder = Path(sysconfig.get_path("stdlib")) / PACKAGE
    modules = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    version = sysconfig.get_python_version()
    return Text(f"Python {version} {PACKAGE} code", "\n\n".join(modules))


def task_text(place: int, path: str | None, shape: Shape) -> TaskText:
    """The text, cut. Raises UserError where it is too short to be cut."""
    text = read_task(place, path)
    windows, held_out = split(read_tokens(text), shape)
    if len(held_out) < 2:
        raise UserError(
            f"--tasks {text.source}: {len(held_out)} held-out windows of {shape.context} tokens; 2 "
            "are needed, one to choose a learning rate by and one to report"
        )
    numbers = list(range(min(2 * HELD_OUT, len(held_out))))
    return TaskText(text.source, text.sha256, windows, numbers[1::2], numbers[::2], held_out)


def task_texts(settings) -> list[TaskText]:
    paths = settings.tasks or (None, None)
    return [task_text(place, path, settings.shape) for place, path in enumerate(paths)]

"""Documents of uneven length: docstrings that every Python carries, or a folder's files.

Nothing is fetched. All documents' tokens are one stream in the cache, <|endoftext|> before each
document and after the last, in a memory-mapped uint16 file that goes by the documents' content.
"""

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.records import write_atomically
from common.gpt.text import (
    END_OF_TEXT,
    VOCAB_BPE_SHA256,
    encode,
    read_cached,
    read_text_file,
    with_checksum,
)

SUFFIXES = (".txt", ".md")  # of a folder's files that are documents
WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Texts with something in them, in a fixed order, and where they are from."""

    source: str
    texts: tuple[str, ...]
    empty: int = 0  # left out

    @cached_property
    def sha256(self) -> str:
        """Of all texts; JSON keeps their borders apart."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    @property
    def stream_path(self) -> Path:
        """Where the tokens of all documents are, once `stream` made them."""
        return cache_dir() / f"documents-{self.sha256[:16]}-{VOCAB_BPE_SHA256[:8]}.u16"


def of(source: str, texts) -> Documents:
    """Leaves out what is empty, or white space only."""
    texts = [*texts]
    filled = tuple(text for text in texts if text.strip())
    return Documents(source=source, texts=filled, empty=len(texts) - len(filled))


def read_documents(folder: str | None = None) -> Documents:
    """A folder's .txt and .md files; by default the standard library's docstrings.

    Raises UserError where the folder holds none, or one that is no text.
    """
    return of_folder(Path(folder)) if folder is not None else of_standard_library()


def of_folder(folder: Path) -> Documents:
    """Each file is a document, in the order of their names; hidden ones are left out."""
    if not folder.is_dir():
        raise UserError(f"--docs {folder}: not a folder; one with {' and '.join(SUFFIXES)} files")
    paths = sorted(path for path in folder.rglob("*") if is_document(path.relative_to(folder)))
    texts = [content_of(folder / path) for path in paths if path.is_file()]
    found = of(str(folder), texts)
    if len(found.texts) < 2:
        raise UserError(
            f"--docs {folder}: {len(found.texts)} documents with text in them; at least 2 are "
            f"needed, as {' or '.join(SUFFIXES)} files"
        )
    return found


def is_document(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def content_of(path: Path) -> str:
    """Raises UserError where it is no text; an empty one is."""
    with suppress(OSError):
        if not path.read_bytes().strip():
            return ""
    return read_text_file(path, "--docs")


def of_standard_library() -> Documents:
    """The docstrings of the library's own modules, those of packages left out.

    Parsed, not imported: importing some opens a browser. Two seconds, kept in the cache.
    """
    version = sysconfig.get_config_var("py_version") or sysconfig.get_python_version()
    source = f"Python {version} docstrings"
    path = cache_dir() / f"docstrings-{version}.json"
    try:
        texts = json.loads(path.read_bytes())
        if all(isinstance(text, str) for text in texts) and texts:
            return of(source, texts)
    except (OSError, ValueError, TypeError):
        pass  # none yet, or damaged: made again
    texts = [*docstrings(Path(sysconfig.get_path("stdlib")))]
    with suppress(OSError):  # a cache that cannot be written costs two seconds, not the run
        write_atomically(path, json.dumps(texts).encode())
    return of(source, texts)


def docstrings(folder: Path) -> Iterator[str]:
    """Of every module, class, and function in the folder's own files, in the order of the code."""
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, WITH_DOCSTRINGS) and (text := ast.get_docstring(node)) is not None:
                yield text


def stream(documents: Documents) -> np.ndarray:
    """All documents' tokens, (N,) uint16, memory-mapped from the cache; made if need be."""
    found = read_cached(documents.stream_path)
    if found is not None:
        return found
    ids = [END_OF_TEXT]
    for text in documents.texts:
        ids += [*encode(text), END_OF_TEXT]
    made = np.array(ids, dtype="<u2")
    try:
        write_atomically(documents.stream_path, with_checksum(made.tobytes()))
    except OSError:
        return made
    found = read_cached(documents.stream_path)
    return made if found is None else found


def starts(ids: np.ndarray) -> np.ndarray:
    """Where each document begins, with its <|endoftext|>, and where the last one ends: (n + 1,)."""
    return np.flatnonzero(ids == END_OF_TEXT)

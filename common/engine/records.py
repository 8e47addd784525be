"""Records are the truth: one JSON line per rung and repeat. Tables and plots derive from them."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.engine.errors import UserError

SCHEMA = 1
REQUIRED = {"run_id", "ladder", "series", "rung", "round", "status", "applied", "settings"}


def append_line(path: Path, record: dict) -> None:
    """Add one JSON line and wait until it is on the disk.

    Raises UserError if it cannot be written, on a full disk, say.
    """
    line = json.dumps(record).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.tell() and not _ends_with_newline(path):
                line = b"\n" + line  # an earlier writer was killed in the middle of its line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


class Records:
    """An append-only file of JSON lines: a run adds to it, and nothing is ever overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict) -> None:
        """Write one record; a kill loses only the rung at work. Raises UserError if it cannot."""
        append_line(self.path, record)

    def read(self, run_id: str | None = None) -> list[dict]:
        """The records of one run, the last in the file by default; half-written lines are skipped.

        Raises UserError if the file holds no records or ones of a newer version of this project.
        """
        records = []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read as records ({error})") from error
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            schema = record.get("schema") if isinstance(record, dict) else None
            if isinstance(schema, int) and schema > SCHEMA:
                raise UserError(f"{self.path}: written by a newer version (schema {schema})")
            if schema is None or not record.keys() >= REQUIRED:
                raise UserError(f"{self.path}: not a file of this project's records")
            records.append(record)
        if not records:
            raise UserError(f"{self.path}: holds no records")
        run_id = run_id or records[-1]["run_id"]
        return [record for record in records if record["run_id"] == run_id]


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder while a run writes to it. Raises UserError if another run does.

    The system lets go of the lock when its process ends, however that ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows: runs are not kept apart there
        yield
        return
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"--out {folder}: {holder} is writing there") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield

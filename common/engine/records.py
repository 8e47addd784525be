"""Records are the truth: one JSON line per rung and repeat. Tables and plots derive from them."""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.engine.contract import SKIPPED
from common.engine.errors import UserError

SCHEMA = 1
REQUIRED = {  # of every record, and of which kind
    **dict.fromkeys(("run_id", "ladder", "series", "status"), str),
    **dict.fromkeys(("schema", "rung", "round"), int),
    "applied": list,
    "settings": dict,
}
OLD_WORDS = {"n/a": SKIPPED}  # statuses as they were called before
# what comes of reading a record as what it is not
WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# what a file system says that cannot do it: some that are shared have no locks
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


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
            sync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def sync(handle: int) -> None:
    """Wait until it is on the disk, on a file system that can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


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


def is_file(path: Path) -> bool:
    """Whether a file is there; what cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # no rights, a name that is too long or holds a NUL
        return False


class Records:
    """An append-only file of JSON lines: a run adds to it, and nothing is ever overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict) -> None:
        """Write one record; a kill loses only the rung at work. Raises UserError if it cannot."""
        append_line(self.path, record)

    def read(self, run_id: str | None = None) -> list[dict]:
        """The records of one run, the last in the file by default; half-written lines are skipped.

        Raises UserError if the file holds no records (NoRecords) or others than this version's.
        """
        records = [self.understood(record) for record in json_lines(self.path)]
        if not records:
            raise NoRecords(f"{self.path}: holds no records")
        run_id = run_id or records[-1]["run_id"]
        return [record for record in records if record["run_id"] == run_id]

    def understood(self, record) -> dict:
        """The record in today's words. Raises UserError if it is none of ours."""
        schema = record.get("schema") if isinstance(record, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UserError(f"{self.path}: written by a newer version (schema {schema})")
        if schema != SCHEMA or not all(
            isinstance(record.get(name), kind) for name, kind in REQUIRED.items()
        ):
            raise UserError(f"{self.path}: not a file of this project's records")
        record["status"] = OLD_WORDS.get(record["status"], record["status"])
        for told in (record.get("refused") or {}).values():
            told["status"] = OLD_WORDS.get(told["status"], told["status"])
        return record


class NoRecords(UserError):
    """A file without one whole line: of a run that was killed before its first."""


def json_lines(path: Path) -> list:
    """What the lines of a file hold; half-written ones are skipped. Raises UserError."""
    if not is_file(path):
        raise UserError(f"{path}: cannot be read as records (no such file, or not a file)")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # editors put marks before it
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as records ({error})") from error
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return found


@contextmanager
def as_records_of(path: str | Path, *others: str | Path) -> Iterator[None]:
    """Say of records that lack what is asked of them that they are of another kind."""
    try:
        yield
    except WRONG as error:
        named = " and ".join(map(str, (path, *others)))
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{named}: records of another kind; no use for {what}") from error


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
    try:
        file = (folder / ".lock").open("a+", errors="replace")
    except OSError as error:
        raise UserError(f"{folder / '.lock'}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"--out {folder}: {holder} is writing there") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise UserError(f"--out {folder}: cannot be locked ({error.strerror})") from error
            sys.stderr.write(
                f"warning: {folder}: its file system has no locks ({error.strerror}); "
                "let no second run write there\n"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield

"""The command-line options that the commands share, written down once."""

import argparse
import math
import re
import tempfile
from pathlib import Path

from common.engine.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse, with one sentence for a mistake instead of the whole usage."""

    def error(self, message: str):
        raise UserError(message.replace("argument ", "", 1))


MOST = 10**9  # of a whole number, where nothing less is sensible
A_YEAR = 365 * 24 * 60 * 60  # seconds; timers overflow far beyond it
WHOLE = re.compile(r"[+-]?[0-9]{1,30}")  # int() and float() would take every script's digits, and _
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole_number(text: str) -> int | None:
    """What was typed as a whole number; None if it is none."""
    return int(text) if WHOLE.fullmatch(text) else None


def number(text: str) -> float:
    """What was typed as a number; NaN if it is none."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


def whole(least: int, most: int = MOST):
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        value = whole_number(text)
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least} on")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text}: must be at most {most:,}")
        return value

    return parse


def above_zero(unit: str, most: float):
    """A parser of numbers above 0, of seconds, say."""

    def parse(text: str) -> float:
        value = number(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: must be a number of {unit} above 0")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text}: must be at most {most:,.0f} {unit}")
        return value

    return parse


seconds, minutes = above_zero("seconds", A_YEAR), above_zero("minutes", A_YEAR / 60)


def probability(text: str) -> float:
    if not 0 <= (value := number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to below 1")
    return value


def share(text: str) -> float:
    """A parser of shares, "3%" or 0.03."""
    bare = text.strip().removesuffix("%")
    value = number(bare.strip()) / (100 if text.strip().endswith("%") else 1)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a share above 0 and below 100%, as 3%")
    return value


UNITS = {"s": 1, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """A parser of times: "8m", "90s", "1h", or seconds."""
    bare = text.strip()
    unit = UNITS.get(bare[-1:], 0)
    value = number(bare[:-1] if unit else bare) * (unit or 1)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a time above 0, as 90s, 8m, or 1h")
    if value > A_YEAR:
        raise argparse.ArgumentTypeError(f"{text}: must be at most a year")
    return value


SIZE = re.compile(r"(.*?)\s*([KMGT])(i?)B", re.IGNORECASE)  # "8GiB", "8 GB", "800MiB"
MOST_BYTES = 2**50  # a PiB: more than any machine has


def size(text: str) -> float:
    """A parser of bytes: "8GiB", "8GB", or "800MiB". A bare number could mean either."""
    found = SIZE.fullmatch(text.strip())
    value = math.nan
    if found:
        bare, letter, binary = found.groups()
        value = number(bare) * (1024 if binary else 1000) ** (1 + "KMGT".index(letter.upper()))
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a size, as 8GiB, 8GB, or 800MiB")
    if value > MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text}: must be at most {MOST_BYTES // 2**40:,} TiB")
    return value


def output_folder(text: str) -> Path:
    """A folder's name: an empty one would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of a folder is needed")
    return Path(text)


def writable_folder(option: str, folder: Path) -> Path:
    """The folder, made if need be. Raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {folder}: cannot be written ({reason})") from error
    return folder


def writable_file(option: str, path: Path) -> None:
    """Raises UserError if the file cannot be written. One that is there stays as it is."""
    writable_folder(option, path.parent)
    try:
        there = path.exists()
        if there and not path.is_file():
            raise UserError(f"{option} {path}: not a file; give the name of one")
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror})") from error

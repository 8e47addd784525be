"""The command-line options that the commands share, written down once."""

import argparse
import tempfile
from pathlib import Path

from common.engine.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse, with one sentence for a mistake instead of the whole usage."""

    def error(self, message: str):
        raise UserError(message.replace("argument ", "", 1))


def whole(least: int):
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least} on")
        return int(text)

    return parse


def above_zero(unit: str):
    """A parser of numbers above 0, of seconds, say."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: must be a number of {unit} above 0")
        return value

    return parse


seconds, minutes = above_zero("seconds"), above_zero("minutes")


def probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to below 1")
    return value


def writable_folder(option: str, folder: Path) -> Path:
    """The folder, made if need be. Raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
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

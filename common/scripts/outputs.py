"""What a run says and writes: checked before it trains, and no reason for it to end later."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.engine.errors import UserError, in_short
from common.engine.options import writable_file, writable_folder
from common.scripts.world import World

FILES = ("save", "plot", "record")  # options that name a file to write
PICTURES = (".png", ".pdf", ".svg")  # that matplotlib writes without another package


@contextmanager
def outputs(options: argparse.Namespace, world: World) -> Iterator[None]:
    """Hold what the run writes; the first process does, which writes it, or hands it out.

    Raises UserError where it could not be written, or another run holds the checkpoints.
    """
    with ExitStack() as held:

        def hold() -> None:
            check_outputs(options)
            if options.checkpoint:
                held.enter_context(sole_user("--checkpoint", options.checkpoint))

        world.from_first(hold)
        yield


@contextmanager
def sole_user(option: str, folder: Path) -> Iterator[None]:
    """Lock the folder itself, until this process ends, however it ends: no file is left in it."""
    try:
        import fcntl
    except ImportError:  # Windows: runs are not kept apart there
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"{option} {folder}: another run is using it; give another folder"
        ) from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


def check_outputs(options: argparse.Namespace) -> None:
    """Raises UserError where something that the run is to write could not be written."""
    files = {f"--{name}": path for name in FILES if (path := getattr(options, name, None))}
    taken = {Path(options.text).resolve(): "--text"} if options.text else {}
    if options.load and options.load != options.save:
        taken[options.load.resolve()] = "--load"
    for name in ("weights", "parts"):
        if path := getattr(options, name, None):
            taken[path.resolve()] = f"--{name}"
    for option, path in files.items():
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(f"{option} {path}: {other} names it, too; give another file")
        if option == "--plot" and path.suffix not in PICTURES:
            raise UserError(f"--plot {path}: must end in {', '.join(PICTURES)}")
        writable_file(option, path)
    if options.checkpoint:
        writable_folder("--checkpoint", options.checkpoint)


def tell(*parts) -> None:
    """Print a line. Where nobody reads it any more, on a closed pipe, say, the run goes on."""
    try:
        print(*parts, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


@contextmanager
def optional(what: str) -> Iterator[None]:
    """What comes after the weights: if it fails, that is a line on stderr, not the run's end."""
    try:
        yield
    except Exception as error:
        print(f"{what} failed: {in_short(error)}", file=sys.stderr)

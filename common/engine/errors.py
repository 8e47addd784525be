"""A user's mistake is one plain sentence and exit status 2, never a traceback."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(Exception):
    """What is wrong, in one sentence: the option, the value, and what is allowed."""


class OtherLost(UserError):
    """Another process is late or gone, and threads of this one may still wait for it."""


UNREAD = 128 + 13  # what a shell has for a program that SIGPIPE ended


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """End without a word when nobody reads standard output any more, as with `| head`."""
    try:
        try:
            yield
        finally:
            if sys.stdout:  # None where a program was started with it closed
                sys.stdout.flush()  # the interpreter's own end would complain
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(UNREAD) from None
        raise  # it was another pipe


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError as one line and leave with status 2."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter gets another one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if sys.flags.optimize > 1:
            raise UserError(
                "PYTHONOPTIMIZE=2 (python -OO): takes away the docstrings, which hold the rungs' "
                "titles and lessons; 0 and 1 are allowed"
            )
        with quiet_when_unread():
            yield
    except UserError as error:
        if isinstance(error, OtherLost):
            end_now(error)
        say(error)
        raise SystemExit(2) from None


def end_now(error: OtherLost) -> NoReturn:
    """Print it and end the process with status 2, whatever its threads do.

    The interpreter's own end destroys gloo's groups, which joins their threads; one of those may
    wait for the interpreter in turn, for ever (torch 2.13).
    """
    try:
        say(error)
        sys.stdout.flush()
    finally:
        os._exit(2)


def say(error: UserError) -> None:
    sys.stderr.write(f"error: {error}\n")  # one write: lines of several processes must not mix
    sys.stderr.flush()


def in_short(error: Exception) -> str:
    """The first line of an error, with its class, at most 200 characters."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


NO_MEMORY = (  # in the words of those whose errors have no type of their own
    "can't allocate memory",  # c10's allocator for CPUs
    "out of memory",  # CUDA's runtime and driver, HIP, Level Zero, and Triton's launcher
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, rocBLAS
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out.

    Known by name: the library whose error it may be need not be there.
    """
    if error is None:
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    typed = isinstance(error, MemoryError) or "OutOfMemoryError" in names
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return typed or told or out_of_memory(error.__cause__)

"""A user's mistake is one plain sentence and exit status 2, never a traceback."""

import sys
from contextlib import contextmanager


class UserError(Exception):
    """What is wrong, in one sentence: the option, the value, and what is allowed."""


@contextmanager
def exit_on_user_error():
    """Print a UserError as one line and leave with status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

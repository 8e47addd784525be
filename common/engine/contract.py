"""What a rung declares of itself, and what its parts, its check, and its timed steps may raise."""

import enum

# the status of a rung that does not apply; "n/a" and "NA" would be holes to whoever reads a CSV
SKIPPED = "skipped"
IN_WORDS = {SKIPPED: "does not apply"}  # statuses for people, where they differ


class Numerics(enum.Enum):
    """What a rung may do to the numbers, weakest claim last. A workload's check enforces it."""

    EXACT = "exact"  # bit for bit the same on the same device
    ROUNDING = "rounding"  # the same mathematics in another order, in the same format
    LOWER_PRECISION = "lower precision"  # the same mathematics with fewer bits
    DIFFERENT_WORK = "different work"  # a step computes something else (more columns, more tokens)


class NotInEffect(Exception):
    """A rung's probe found that its change did not take effect. The row is failed, not timed."""


class DoesNotApply(Exception):
    """A rung cannot act here, as only the process that measures it could tell: SKIPPED."""


class NotEquivalent(Exception):
    """The rung computes something else than it declares. The row is failed, not timed."""


class Disturbed(Exception):
    """Something in the timed steps makes their figure void. Measuring again may help."""

"""A figure that a workload reports, from which tables, pictures, and verdicts follow."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HIGHER, LOWER = "higher", "lower"
ROUNDS, SEEDS, EXACT = "rounds", "seeds", "exact"
BRIEF, PAGE, CSV = "brief", "page", "csv"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of a rung. `name` is its column, with the unit in it: `step_ms`.

    A metric is read from the record of each measurement (`of`) and combined over rounds (`over`),
    or derived from the rows of the whole table (`derive`).
    """

    name: str
    title: str  # for people, with the unit
    of: Callable[[dict], float | None] | None = None  # None: not measured, never 0
    derive: Callable[[list[dict]], dict[int, float]] | None = None  # all rows to values by rung
    over: str = "median"  # rounds: median, mean, max, or first
    better: str | None = None  # HIGHER or LOWER; None: neither
    noise: str = ROUNDS  # what repeats it: ROUNDS, SEEDS; EXACT: counted, any difference counts
    limit: Callable[[dict], float] | None = None  # a value that may be infinite is then beyond it
    words: tuple[str, str] = ("faster", "slower")  # for better and for worse
    form: str = ",.0f"  # as Python formats it
    scale: float = 1.0  # what people see is divided by it: a column of bytes, a title with MiB
    shown: str = PAGE  # BRIEF: also in the terminal, README, and the picture; CSV: only there
    titles: Mapping[str, str] = field(default_factory=dict)  # by device type, where they differ
    spared: bool = False  # a rung may be for it alone, whatever the headline: memory, say
    stack: str = ""  # metrics of one stack are drawn as one stacked bar with this title
    short: str = ""  # its head in a second table for the terminal; empty: not there
    legend: str = ""  # a line under that table

    def title_on(self, device_type: str) -> str:
        return self.titles.get(device_type, self.title)

    def level(self, record: dict) -> tuple[float, bool]:
        """The logarithm of a record's value, or of the limit; and whether the value is beyond it.

        What was not reached is infinite, and no mean can be taken of that.
        """
        value = self.of(record)
        beyond = self.limit is not None and math.isinf(value)
        return math.log(self.limit(record) if beyond else value), beyond

    def text(self, value: float | None, missing: str = "n/a") -> str:
        """A value for people."""
        absent = value is None or value != value  # NaN
        return missing if absent else format(value / self.scale, self.form)

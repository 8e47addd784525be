"""What a workload reports: metrics, from which tables, pictures, and verdicts follow."""

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
    over: str = "median"  # rounds: median, max, or first
    better: str | None = None  # HIGHER or LOWER; None: neither
    noise: str = ROUNDS  # what repeats it: ROUNDS, SEEDS; EXACT: counted, any difference counts
    words: tuple[str, str] = ("faster", "slower")  # for better and for worse
    form: str = ",.0f"  # as Python formats it
    shown: str = PAGE  # BRIEF: also in the terminal, README, and the picture; CSV: only there
    titles: Mapping[str, str] = field(default_factory=dict)  # by device type, where they differ
    stack: str = ""  # metrics of one stack are drawn as one stacked bar with this title
    short: str = ""  # its head in a second table for the terminal; empty: not there
    legend: str = ""  # a line under that table

    def title_on(self, device_type: str) -> str:
        return self.titles.get(device_type, self.title)

    def text(self, value: float | None, missing: str = "n/a") -> str:
        """A value for people."""
        return missing if value is None or value != value else format(value, self.form)  # NaN


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a ladder measures, as far as reports need to know it. The first metric is the headline.

    `describe` and `notes` take a run's records: what was measured on what, and how, in a line each.
    """

    metrics: tuple[Metric, ...]
    describe: Callable[[list[dict]], str]
    notes: Callable[[list[dict]], str]
    ceilings: Callable[[list[dict]], str] = lambda records: ""  # what the device does at best

    @property
    def headline(self) -> Metric:
        return self.metrics[0]

    def shown(self, *where: str) -> list[Metric]:
        """The metrics beside the headline that are shown there."""
        return [metric for metric in self.metrics[1:] if metric.shown in where]

    def stacks(self) -> dict[str, list[Metric]]:
        """Metrics that are drawn as one bar, by the bar's title."""
        found: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            if metric.stack:
                found.setdefault(metric.stack, []).append(metric)
        return found

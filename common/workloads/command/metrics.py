"""What the ladder `environment` shows: a rate, and what can be read of processes from outside."""

from common.engine.metric import BRIEF, CSV, HIGHER, LOWER, Metric


def measured(key: str):
    return lambda record: record["measurement"][key]


RATE = Metric(name="rate", title="rate", of=measured("rate"), better=HIGHER, form=",.6g")
METRICS = (
    RATE,
    Metric(
        name="peak_resident_gib",
        title="peak resident, GiB",
        of=measured("peak_resident_gib"),
        over="max",
        better=LOWER,
        form=".2f",
        shown=BRIEF,
    ),
    Metric(name="loss", title="loss", of=measured("loss"), form=".4f", shown=BRIEF),
    Metric(
        name="first_line_s",
        title="first line after, s",
        of=measured("first_line_s"),
        over="first",  # the cold one: later rounds find caches
        better=LOWER,
        form=".1f",
    ),
    Metric(
        name="page_faults",
        title="page faults a line",
        of=measured("page_faults"),
        better=LOWER,
    ),
    Metric(name="threads", title="threads", of=measured("threads"), shown=CSV),
)

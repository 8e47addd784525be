"""The files that derive from a run's records: tables and pictures, each by itself."""

from collections.abc import Callable, Collection
from pathlib import Path

from common.engine.errors import in_short
from common.engine.ladder import Ladder
from common.engine.plan import ALONE, WITHOUT
from common.engine.records import write_atomically
from common.engine.workload import Writer
from common.report.attribution import attribution_markdown, to_attribution
from common.report.frame import in_units, to_csv, to_frame
from common.report.recommendation import recommendation_markdown, recommends
from common.report.tables import to_markdown


def write_results(
    records: list[dict], out: Path, ladder: Ladder, without: Collection[str] = ()
) -> dict[str, str]:
    """Tables and plots from the records. Returns the paths of those that were written, by kind.

    `without`: kinds that are not wanted. What fails costs itself: a line says so, and what was
    measured is on the disk already.
    """
    done = {}
    for kind, (name, write) in results(records, ladder).items():
        if kind in without:
            continue
        try:
            write(out / name)
        except Exception as error:  # whatever a library or the disk makes of it
            print(f"warning: {out / name} is not written ({in_short(error)})")
        else:
            done[kind] = str(out / name)
    return done


def results(records: list[dict], ladder: Ladder) -> dict[str, tuple[str, Writer]]:
    """By kind: a file's name, and what writes it to a path."""
    workload, frame = ladder.workload, to_frame(records, ladder.workload)
    drawn, shown = in_units(frame, workload)
    found = {
        "csv": ("ladder.csv", text_writer(lambda: to_csv(frame))),
        "md": (
            "ladder.md",
            text_writer(lambda: to_markdown(records, workload, ladder.published())),
        ),
        "png": ("ladder.png", lambda path: pictures().plot_ladder(drawn, records, shown, path)),
    }
    if any(record["series"] in (ALONE, WITHOUT) for record in records):
        gains, title = to_attribution(records, workload), workload.describe(records)
        found |= {
            "attribution_csv": ("attribution.csv", text_writer(lambda: to_csv(gains))),
            "attribution_md": ("attribution.md", text_writer(lambda: attribution_markdown(gains))),
            "attribution": (
                "attribution.png",
                lambda path: pictures().plot_attribution(gains, title, path),
            ),
        }
    if recommends(ladder):
        text = text_writer(lambda: recommendation_markdown(records, ladder))
        found["recommendation"] = ("recommendation.md", text)
    page = {"html": ("report.html", text_writer(lambda: pages().to_page([records], ladder)))}
    return found | workload.extra_results(records) | page


def text_writer(make: Callable[[], str]) -> Writer:
    return lambda path: write_atomically(path, make().encode())


def pages():
    from common.report import page  # jinja2 and the templates are only needed for pages

    return page


def pictures():
    from common.report import plot  # matplotlib takes a second to import

    return plot

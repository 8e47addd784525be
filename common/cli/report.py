"""A run as one page: python -m steps.report RUN, or RUN RUN for two side by side.

RUN is `last`, `last-1` (the one before it), a folder, or a records.jsonl. Leaves report.html beside
the records; of two runs, comparison.html in the current folder. The page needs no other file and no
network. A run of all ladders has a page that links to those of its ladders, which are made anew.
"""

from pathlib import Path

from common.cli.overview import read_all
from common.cli.runs import find_run
from common.engine.errors import UserError
from common.engine.options import Parser, writable_file
from common.engine.records import as_records_of, write_atomically
from common.engine.standing import Standings
from common.report.comparison import read_run, same_ladder
from common.report.overview import to_overview
from common.report.page import to_page
from common.report.page_words import WORDS
from ladders import of_records


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="last, last-1, …, a folder, or a records.jsonl")
    parser.add_argument("other", metavar="RUN", nargs="?", help="another one, to stand beside it")
    spoken = f"one of {', '.join(WORDS)}; default: en"
    parser.add_argument("--lang", choices=WORDS, default="en", metavar="L", help=spoken)
    where = "default: report.html beside the records, or comparison.html here"
    parser.add_argument("--out", metavar="FILE", help=where)
    options = parser.parse_args(arguments)
    names = [find_run(name) for name in (options.run, options.other) if name is not None]
    if len(names) == 1 and Standings.there(Path(names[0])):
        return all_ladders(Path(names[0]), options.lang, options.out)
    runs = [read_run(name) for name in names]
    if len(runs) == 2:
        same_ladder(*runs)
    out = Path(options.out) if options.out is not None else usual_place(names)
    writable_file("--out", out)
    with as_records_of(*names):
        page = to_page(runs, of_records(runs[0]), options.lang)
    write(out, page)
    print(out)
    return 0


def all_ladders(folder: Path, lang: str, out: str | None) -> int:
    """The page of all ladders, and, where it stands in their folder, their own."""
    page = Path(out) if out is not None else folder / "report.html"
    writable_file("--out", page)
    parts = read_all(folder, page)
    with as_records_of(folder):
        for one in parts if out is None else []:
            if one.records:
                write(folder / one.name / "report.html", to_page([one.records], one.ladder, lang))
        write(page, to_overview(parts, lang))
    print(page)
    return 0


def usual_place(names: list[str]) -> Path:
    """Beside the records of one run; here for two."""
    if len(names) == 2:
        return Path("comparison.html")
    place = Path(names[0])
    return (place if place.is_dir() else place.parent) / "report.html"


def write(out: Path, page: str) -> None:
    try:
        write_atomically(out, page.encode())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error

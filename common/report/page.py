"""report.html: one page of a run, or of two side by side, that needs nothing but itself.

No script, no outside address, and from the same records the same bytes. What records hold may have
been written by anybody: the template escapes all of it.
"""

import re
from functools import cache
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.metric import Metric
from common.engine.plan import ALONE, WITHOUT
from common.engine.workload import Workload
from common.report import ending, page_facts
from common.report.attribution import KINDS, to_attribution
from common.report.comparison import flatten
from common.report.frame import to_frame
from common.report.page_lesson import shorter
from common.report.page_pair import both_view
from common.report.page_plots import drawn, or_why
from common.report.page_rungs import Sections, three_gains
from common.report.page_words import EN, WORDS
from common.report.recommendation import recommendation_view
from common.report.tables import control, control_text, is_stair, spread

HERE = Path(__file__).parent
ROOM = 600_000  # characters of the workload's own pictures; a page is to stay below a megabyte
RATIO = re.compile(r" (?=x\d)")  # where no line of a headline is to end


def to_page(runs: list[list[dict]], ladder: Ladder, lang: str = "en") -> str:
    """The page of one run's records, or of two runs of the same ladder, as HTML.

    Raises UserError for a language that it does not speak, or runs of different ladders.
    """
    if lang not in WORDS:
        raise UserError(f"--lang {lang}: must be one of {', '.join(WORDS)}")
    words = dict(WORDS[lang])
    named = ladder.name.rpartition(".")[2]
    if len(runs) == 1:
        device = runs[0][0]["machine"]["device"]
        title = words["title"].format(ladder=named, device=device)
        view = {"runs": [whole_view(runs[0], ladder, words, "a")], "both": None}
    else:
        title = words["both"].format(ladder=named)
        views = [run_view(run, ladder, words, name) for run, name in zip(runs, "ab", strict=True)]
        view = {"runs": views, "both": both_view(*runs, ladder, words)}
    view |= {"words": words, "title": title}
    page = template().render(view)
    return page.encode("utf-8", "replace").decode()  # a lone surrogate is no letter


@cache
def template(name: str = "page.html") -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def run_view(records: list[dict], ladder: Ladder, words: dict, name: str) -> dict:
    """What the template shows of a run, beside another or alone; `name`: see drawn."""
    workload, frame = ladder.workload, to_frame(records, ladder.workload)
    notices = page_facts.notices(records, frame, ladder, words)
    command = str(records[0].get("command"))
    return {
        "headline": RATIO.sub("\N{NO-BREAK SPACE}", outcome(records, frame, ladder, words)),
        "described": workload.describe(records),
        "key": key_figures(records, frame, ladder, words),
        "notices": [one for one in notices if one["kind"] != "calm"],
        "remarks": [one["text"] for one in notices if one["kind"] == "calm"],
        "picture": picture(records, frame, ladder, words, name),
        "picture_legend": legend(frame, workload.headline, words),
        "bars": page_facts.bars(frame, workload.headline, words["lang"]),
        "notes": shorter(workload.notes(records).replace(f": `{command}`", "")),
        "ceilings": workload.ceilings_text(records),
        "control": control_text(control(records, workload)),
        "command": shorter(command),
        "facts": measured_on(records, words),
        "footer": words["footer"].format(count=len(records), run=records[0]["run_id"]),
    }


def whole_view(records: list[dict], ladder: Ladder, words: dict, name: str) -> dict:
    """What the template shows of a run that has the page to itself."""
    workload, frame = ladder.workload, to_frame(records, ladder.workload)
    return run_view(records, ladder, words, name) | {
        "table": page_facts.table(records, frame, ladder, words),
        "full": page_facts.full_table(records, frame, workload),
        "gains": attribution(records, workload, words, name),
        "advice": recommendation_view(records, ladder, words),
        "sections": Sections(records, frame, ladder, words).all(),
        "more": more_pictures(records, workload, words, name),
    }


def outcome(records: list[dict], frame: pd.DataFrame, ladder: Ladder, words: dict) -> str:
    """The result in a sentence."""
    if words["lang"] == EN["lang"]:
        return ending.headline(records, ladder.workload)
    return page_facts.sentence(frame, ladder.workload)


def key_figures(records: list[dict], frame: pd.DataFrame, ladder: Ladder, words: dict) -> list:
    """(name, text, more) for the few figures that stand below the headline."""
    workload, headline = ladder.workload, ladder.workload.headline
    rows = frame.to_dict("records")
    base, above = page_facts.foot(records, frame, workload), ending.summit(rows)
    found = []
    for name, row in ((words["from"], base), (None, above)):
        if row:
            name = name or words["top"].format(number=row["rung"])
            more = f"{headline.title} {spread(row, headline.name)}".strip()
            found.append((name, headline.text(row[headline.name]), more))
    if above:
        cell = page_facts.gain_cell(above, "x_base", words["lang"])
        found.append((words["gain"], cell["text"], ""))
    numbered = [row for row in rows if row["rung"] > 0]
    measured = sum(row["status"] == "ok" for row in numbered)
    counted = words["of_all"].format(measured=measured, all=max(ladder.top, len(numbered)))
    return [*found, (words["rungs"], counted, "")]


def picture(
    records: list[dict], frame: pd.DataFrame, ladder: Ladder, words: dict, name: str
) -> Markup:
    """The ladder's, without the texts that stand above and below it in a file of its own."""
    from common.report import canvas, plot  # matplotlib takes a second to import

    def write(path: Path) -> None:
        figure = plot.ladder_figure(frame, records, ladder.workload)
        figure.suptitle("")
        figure.supxlabel("")
        canvas.save(figure, path)

    return or_why(lambda: drawn(write, name), words["no_picture"])


def legend(frame: pd.DataFrame, headline: Metric, words: dict) -> str:
    """What the picture shows."""
    below = words["below" if is_stair(frame) else "base"]
    return words["picture_legend"].format(what=headline.title, below=below)


def attribution(records: list[dict], workload: Workload, words: dict, name: str) -> dict | None:
    """Gains in order, alone, and left out, where they were measured."""
    if not any(record["series"] in (ALONE, WITHOUT) for record in records):
        return None
    from common.report import plot

    frame = to_attribution(records, workload)

    def draw() -> Markup:
        title = workload.describe(records)
        return drawn(lambda path: plot.plot_attribution(frame, title, path), f"{name}g")

    heads = (words["in_order"], words["alone_gain"], words["left_out"])
    return {
        "picture": or_why(draw, words["no_picture"]),
        "head": heads,
        "rows": three_gains(frame, KINDS, words["lang"]),
    }


def more_pictures(records: list[dict], workload: Workload, words: dict, name: str) -> list[dict]:
    """Those that the workload draws itself, as far as a page has room for them."""
    found, room = [], ROOM
    writers = workload.extra_results(records).items()
    for place, (kind, (file, write)) in enumerate(writers):
        if file.endswith(".png"):
            svg = or_why(lambda w=write, p=place: drawn(w, f"{name}m{p}"), words["no_picture"])
            if len(svg) > room:
                svg = Markup("<p>{}</p>").format(words["too_large"].format(file=file))
            room -= len(svg)
            found.append({"name": kind, "picture": svg})
    return found


def measured_on(records: list[dict], words: dict) -> list[dict]:
    """Machine, versions, settings, and the run, as (name, value) in tables of their own."""
    first = records[0]
    groups = {key: first.get(key) or {} for key in ("machine", "versions", "settings")}
    groups["run"] = {
        key: first.get(key) for key in ("run_id", "date", "preset", "commit", "changes", "remark")
    }
    return [
        {"title": words[key], "rows": [tuple(map(shorter, fact)) for fact in known(of)]}
        for key, of in groups.items()
    ]


def known(facts: dict) -> list[tuple]:
    """Names and values of those that are known."""
    return [(name, value) for name, value in flatten(facts).items() if value not in (None, "")]

"""The page of all ladders: what this machine should turn on, with its figures and its proof."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.metric import BRIEF, LOWER, Metric
from common.engine.rungs import proof, stack, why
from common.engine.standing import DONE, FAILED, LEFT_OUT, REFUSED, WAITING, Standing
from common.engine.stats import UNJUDGED
from common.report import page, page_facts
from common.report.choice import Choice, Gain, Turned
from common.report.ending import BASELINE, multiple
from common.report.overview_words import WORDS
from common.report.page_lesson import gate, lesson, rung_of, shorter
from common.report.page_words import BASELINE_JA, EN, OUTCOME, said
from common.report.tables import device_type, in_words
from common.report.tables import gain as gain_text

STATES = {  # words for how a ladder stands, where the status is not the word's name
    FAILED: "failed_ladder",
    LEFT_OUT: "left",
    WAITING: "not_begun",
}


@dataclass(frozen=True, kw_only=True)
class OfAll:
    """One ladder of a run of all: how it stands, its records, and where its own page is."""

    name: str
    ladder: Ladder
    standing: Standing
    records: list[dict] = field(default_factory=list)  # none where nothing was measured
    place: str = ""  # its folder, as the page's links have it


def to_overview(ladders: list[OfAll], lang: str = "en") -> str:
    """The page, as HTML. Raises UserError for a language that it does not speak."""
    if lang not in WORDS:
        raise UserError(f"--lang {lang}: must be one of {', '.join(WORDS)}")
    words = WORDS[lang]
    first = next((one.records[0] for one in ladders if one.records), None)
    device = shorter(first["machine"]["device"]) if first else words["not_climbed"]
    date = max((str(r.get("date")) for one in ladders for r in one.records), default="")
    view = {
        "words": words,
        "title": words["all_title"].format(device=device),
        "described": words["all_described"].format(date=shorter(date)),
        "parts": [Part(one, words).view(f"l{place}") for place, one in enumerate(ladders)],
        "footer": words["all_footer"].format(count=sum(bool(one.records) for one in ladders)),
        "both": None,  # of the macros shared with the page of two runs
    }
    html = page.template("overview.html").render(view)
    return html.encode("utf-8", "replace").decode()


def recommended(one: OfAll) -> str:
    """What a ladder says in a line: the rungs to turn on and their gain, or why there are none."""
    return Part(one, WORDS["en"]).line


@dataclass(frozen=True)
class Part:
    """One ladder's part of the page."""

    of: OfAll
    words: dict

    @cached_property
    def choice(self) -> Choice | None:
        return Choice(self.of.records, self.of.ladder) if self.of.records else None

    @property
    def headline(self) -> Metric:
        return self.of.ladder.workload.headline

    @property
    def lang(self) -> str:
        return self.words["lang"]

    @property
    def purpose(self) -> str:
        return self.of.ladder.purpose.name[self.lang]

    def view(self, name: str) -> dict:
        """What the template shows; `name`: see drawn."""
        choice, words = self.choice, self.words
        found = {
            "address": self.of.name,
            "purpose": self.purpose,
            "about": self.of.ladder.purpose.about[self.lang],
            "state": self.state,
            "bad": self.of.standing.status in (FAILED, REFUSED),
            "names": self.names,
            "figure": self.figure,
            "ends": self.ends(choice.total) if choice and choice.total else "",
            "total": self.total,
            "link": f"{self.of.place}/report.html" if choice else "",
            "records": f"{self.of.place}/records.jsonl",
            "note": self.of.ladder.note if choice else "",
            "turned": [self.turned(one) for one in choice.on] if choice else [],
            "rest": self.rest() if choice else [],
            "run": None,
        }
        if choice:
            seen = (self.of.records, choice.frame, self.of.ladder, words)
            found["run"] = {
                "picture": page.picture(*seen, name),
                "picture_legend": page.legend(choice.frame, self.headline, words),
                "bars": page_facts.bars(choice.frame, self.headline, self.lang),
            }
        return found

    @property
    def state(self) -> str:
        """How the ladder stands, where there is something to say of it."""
        status, reason = self.of.standing.status, shorter(self.of.standing.reason)
        if status == DONE:
            return ""
        return self.words[STATES.get(status, status)].format(reason=reason)

    @property
    def names(self) -> str:
        """What to turn on; else why there is nothing."""
        choice, words = self.choice, self.words
        if choice is None:
            return words["not_climbed"]
        if choice.on:
            return words["and"].join(one.row["name"] for one in choice.on)
        judged = choice.frame["verdict_base"].dropna()
        if judged.empty:
            return words["not_climbed"]
        return words["once_only" if (judged == UNJUDGED).all() else "nothing_on"]

    @property
    def figure(self) -> str:
        """What is recommended, together, over the baseline."""
        return f"x{self.choice.total.times:.2f}" if self.choice and self.choice.total else ""

    @property
    def line(self) -> str:
        """All of it in one line."""
        text = f"{self.purpose}{self.words['colon']}{self.names}"
        if self.figure:
            text += f" ({self.total})"
        return text + (f" [{self.state}]" if self.state else "")

    @property
    def total(self) -> str:
        """The whole gain in words, and what was on when it was measured."""
        if not self.figure:
            return ""
        times, headline = self.choice.total.times, self.headline
        foot = self.choice.frame.attrs["foot"]
        if self.lang == EN["lang"]:
            text = multiple(times, self.of.ladder.workload, foot or BASELINE)
        else:
            kind = "over_lower" if headline.better == LOWER else "over"
            digits = 1 if round(times, 2) >= 2 else 2
            text = OUTCOME[kind].format(
                times=f"{times:.{digits}f}", what=headline.title, foot=foot or BASELINE_JA
            )
        record = self.choice.record(self.choice.on[-1].row)
        if len(stack(record)) == 1:
            return text
        return self.words["total"].format(text=text, rungs=self.standing_on(record))

    def standing_on(self, record: dict) -> str:
        """The rungs that a record's recipe has, those of another ladder by its name."""
        by_ladder: dict[str, list[str]] = {}
        for name in record.get("under", ()):
            ladder, _, number = name.partition(" ")
            by_ladder.setdefault(ladder, []).append(number)
        by_ladder[self.words["rungs_of"]] = [str(number) for number in record["applied"]]
        each = (f"{ladder} {', '.join(numbers)}" for ladder, numbers in by_ladder.items())
        return self.words["and_rungs"].join(each)

    def ends(self, gain: Gain) -> str:
        """The 95 % interval of a gain, or that it was counted."""
        if math.isnan(gain.low):
            return self.words["counted"]
        return self.words["interval_of"].format(low=f"{gain.low:.2f}", high=f"{gain.high:.2f}")

    def turned(self, one: Turned) -> dict:
        """A rung to turn on: its gain, its proof, and what it may cost."""
        row, words, records = one.row, self.words, self.choice.records(one.row)
        rung = rung_of(self.of.ladder, records[-1])
        checked = next((r["equivalence"] for r in records if r.get("equivalence")), None)
        passed = gate(checked, words["gate_text"]) if checked else ""
        told = dict(lesson(rung.module.__doc__)) if rung else {}
        number = row["rung"]
        lines = [
            (words["took_effect"], shorter(proof(records[0])), "proof"),
            (words["gate"], passed or words["unchecked"], ""),
            (words["claim"], said(row["numerics"], self.lang), ""),
            (words["costs"], told.get("Cost", ""), ""),
            (words["beside_it"], "; ".join(self.beside(one)), ""),
            (words["again_by"], words["and"].join(self.choice.changed_again(one)), ""),
        ]
        return {
            "number": number,
            "name": row["name"],
            "gain": f"x{one.gain.times:.2f}" if one.gain else "",
            "ends": self.ends(one.gain) if one.gain else "",
            "over": words["gain_over" if one.gain else "equal"].format(
                name=one.over["name"], title=self.headline.title
            ),
            "facts": [line for line in lines if line[1]],
            "link": f"{self.of.place}/report.html#run-{page_facts.address(number)}",
        }

    def beside(self, one: Turned) -> list[str]:
        """What else changed: the metrics that stand beside the headline in tables."""
        shown, device = list(self.of.ladder.workload.shown(BRIEF)), device_type(self.of.records)
        if self.choice.second and self.choice.second not in shown:
            shown.append(self.choice.second)
        found = []
        for metric in shown:
            before, after = (metric.text(row[metric.name], "") for row in (one.over, one.row))
            if before and after and before != after:
                found.append(f"{metric.title_on(device)} {before} → {after}")
        return found

    def rest(self) -> list[tuple[str, str]]:
        """What is not recommended, by why not: (why, names)."""
        words, choice, purpose = self.words, self.choice, self.of.ladder.purpose
        rest, second = choice.rest, choice.second
        others = [self.beside_best(row) for row in choice.others]
        barred: dict[str, list[str]] = {}
        for row in rest["barred"]:
            against = words["barred"].format(reason=purpose.barred(row)[self.lang])
            barred.setdefault(against, []).append(self.over_all(row))
        lines = [
            (words["others_of"].format(title=second.title if second else ""), others),
            (words["elsewhere"], [self.over_its_base(row) for row in rest["elsewhere"]]),
            *barred.items(),
            (words["undone"], [self.over_its_base(row) for row in rest["undone"]]),
            (words["untold"], [self.over_its_base(row) for row in rest["untold"]]),
            (words["unequal"], [row["name"] for row in rest["same"]]),
            (words["regained"], [self.over_its_base(row) for row in rest["regained"]]),
            (words["lost"], [self.over_its_base(row) for row in rest["lost"]]),
            (words["skipped"], [named(row) for row in rest["skipped"]]),
            (words["failed_rungs"], [named(row) for row in rest["failed"]]),
            (words["absent"], choice.absent),
        ]
        return [(why_not, words["and"].join(names)) for why_not, names in lines if names]

    def over_its_base(self, row: dict) -> str:
        """A rung with its own gain, or what that is less than, in words."""
        text = said(in_words(row["x_prev"], row["verdict"]), self.lang)
        return f"{row['name']} ({text})" if text else row["name"]

    def over_all(self, row: dict) -> str:
        """A rung with its gain over the baseline."""
        return f"{row['name']} {gain_text(row['x_base'], row['verdict_base'])}"

    def beside_best(self, row: dict) -> str:
        """A rung with its gain over the baseline and the metric by which it is better."""
        second = self.choice.second
        return f"{self.over_all(row)} ({second.text(row[second.name])})"


def named(row: dict) -> str:
    """A rung without a figure, and why it has none."""
    return f"{row['name']} ({shorter(row['reason'] or why(row))})"

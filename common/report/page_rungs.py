"""The sections of a page: one for each rung, with what was measured of it and what it adds to."""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import pandas as pd

from common.engine.gains import Gains, latest
from common.engine.ladder import Ladder
from common.engine.metric import BRIEF, PAGE
from common.engine.plan import LADDER
from common.engine.rungs import proof, why
from common.report.page_facts import (
    about,
    address,
    gain_cell,
    kind_of,
    label,
    longest,
    present,
    width_of,
)
from common.report.page_lesson import (
    beneath,
    by_stack,
    changes,
    gate,
    lesson,
    rung_of,
    shorter,
    source,
)
from common.report.page_plots import duration, or_why, step_plot, strokes_of
from common.report.page_words import label as translated
from common.report.page_words import said
from common.report.tables import device_type, on_the_rung_below


@dataclass(frozen=True)
class Sections:
    """Of one run."""

    records: list[dict]
    frame: pd.DataFrame
    ladder: Ladder
    words: dict

    @cached_property
    def rounds(self) -> dict[int, list[dict]]:
        """The ladder's records by rung, in order of rounds."""
        return Gains(self.records, self.ladder.workload.headline).of(LADDER)

    @cached_property
    def rows(self) -> dict[int, dict]:
        return {row["rung"]: row for row in self.frame.to_dict("records")}

    @cached_property
    def stacks(self) -> dict[tuple, list[dict]]:
        return by_stack(latest(self.records))

    @property
    def lang(self) -> str:
        return self.words["lang"]

    def all(self) -> list[dict]:
        return [self.section(number) for number in self.rounds]

    def section(self, number: int) -> dict:
        """What the template shows of a rung."""
        row, records = self.rows[number], self.rounds[number]
        good = [record for record in records if record["status"] == "ok"]
        rung, before = rung_of(self.ladder, records[-1]), beneath(records[-1], self.stacks)
        headline = self.ladder.workload.headline
        parts = lesson(rung.module.__doc__) if rung else []
        return about(row, self.lang) | {
            "label": label(number, row["name"]),
            "value": headline.text(row[headline.name]) if good else "",
            "unit": headline.title,
            "gain": gain_cell(row, "x_prev", self.lang),
            "meter": self.meter(row, before),
            "lesson": [(translated(name, self.lang), text) for name, text in parts],
            "lost": number > 0 and rung is None,
            "start": self.start(number),
            "change": self.change(records, before),
            "planned": ", ".join(rung.changes) if rung else "",
            "recipe": self.whole_recipe(number, records),
            "facts": self.facts(number, row, records, good),
            "step_times": self.step_times(good),
            "tables": self.tables(row, records, before),
            "log": next((shorter(r["log"]) for r in reversed(records) if r.get("log")), ""),
            "file": source(rung.module) if rung else None,
        }

    def meter(self, row: dict, before: list[dict]) -> dict | None:
        """The headline in per cent of the run's largest: of what the rung adds to, and its own."""
        name = self.ladder.workload.headline.name
        below = self.rows.get(before[-1]["rung"], {}).get(name) if before else None
        if not present(row[name]) or not present(below):
            return None
        widest = longest(self.frame[name])
        return {"below": width_of(below, widest), "above": width_of(row[name], widest)}

    def start(self, number: int) -> str:
        """What stands in a lesson's place below rung 1."""
        return "" if number > 0 else self.words["reference" if number < 0 else "start"]

    def change(self, records: list[dict], before: list[dict]) -> dict | None:
        """The rung's recipe against that of what it adds to; None where it has none to show."""
        own = next((r["recipe"] for r in reversed(records) if r.get("recipe")), None)
        if own is None or not before:
            return None
        below = before[-1]
        name = label(below["rung"], below["name"])
        return {
            "against": self.words["against"].format(name=name),
            "rows": changes(below["recipe"], own),
        }

    def whole_recipe(self, number: int, records: list[dict]) -> list[tuple[str, str]]:
        """Of a rung that stands on none."""
        found = next((r["recipe"] for r in reversed(records) if r.get("recipe")), None)
        if found is None or number > 0:
            return []
        return [(shorter(name), shorter(value)) for name, value in found.items()]

    def facts(
        self, number: int, row: dict, records: list[dict], good: list[dict]
    ) -> list[tuple[str, str, str]]:
        """(name, text, class) for what is known of a rung, as far as it is known."""
        words, checked = self.words, next((r for r in records if r.get("equivalence")), None)
        found = gate(checked["equivalence"], words["gate_text"]) if checked else ""
        seen = proof(good[0]) if good else ""
        again = sum(len(record.get("discarded") or ()) for record in records)
        base = words["over_below" if on_the_rung_below(row) else "over_base"]
        over_foot = gain_cell(row, "x_base", self.lang)["text"] if number > 0 else ""
        warned = {text: None for r in good for text in self.ladder.workload.warnings(r)}
        lines = [
            (words["took_effect"], shorter(seen), "proof"),
            (words["gate"], found or (words["unchecked"] if good and number > 0 else ""), ""),
            (words["claim"], said(row["numerics"], self.lang) if number > 0 else "", ""),
            (words["interval"], self.interval(row), ""),
            (base, self.gained(row), kind_of(row["x_prev"], row["verdict"])),
            (words["over_foot"], over_foot, kind_of(row["x_base"], row["verdict_base"])),
            (words["tried"], self.tried(records), ""),
            (words["discarded"], words["times"].format(count=again) if again else "", ""),
            (words["note"], shorter("; ".join(filter(None, (row["note"], *warned)))), ""),
        ]
        return [line for line in lines if line[1]]

    def interval(self, row: dict) -> str:
        """The headline's."""
        headline = self.ladder.workload.headline
        if not present(row[f"{headline.name}_low"]):
            return ""
        low, high = (headline.text(row[f"{headline.name}_{end}"]) for end in ("low", "high"))
        return f"{low} – {high} {headline.title}"

    def gained(self, row: dict) -> str:
        """The gain over what the rung adds to, its interval, and the verdict on it."""
        if not present(row["x_prev"]):
            return ""
        ends = ""
        if present(row["x_prev_low"]):
            ends = f" ({row['x_prev_low']:.2f} – {row['x_prev_high']:.2f})"
        return f"x{row['x_prev']:.2f}{ends}: {said(row['verdict'], self.lang)}"

    def tried(self, records: list[dict]) -> str:
        """The candidates among which the rung chose, with their rates, and those refused."""
        told = next((r for r in records if r.get("candidates") or r.get("refused")), {})
        rates = (told.get("candidates") or {}).items()
        lines = [f"{name} {rate:,.4g}" for name, rate in rates if rate is not None]
        refused = (told.get("refused") or {}).items()
        lines += [f"{name}: {said(why(reason), self.lang)}" for name, reason in refused]
        return shorter("; ".join(lines))

    def step_times(self, good: list[dict]) -> dict | None:
        """The raw step times of every round as a small plot."""
        rounds = [r["measurement"]["step_s"] for r in good if r["measurement"].get("step_s")]
        times = [seconds for steps in rounds for seconds in steps]
        if not times:
            return None
        ends = {"least": duration(min(times)), "most": duration(max(times))}
        middle, each = duration(median(times)), strokes_of(len(times))
        legend = self.words["steps_legend"].format(middle=middle, count=len(times), **ends)
        several = self.words["generations" if good[0].get("group") else "rounds"]
        more = [several.format(count=len(rounds))] if len(rounds) > 1 else []
        more += [self.words["thinned"].format(each=each)] if each > 1 else []
        return {
            "plot": or_why(lambda: step_plot(rounds), self.words["no_picture"]),
            "legend": "; ".join([legend, *more]),
            **ends,
        }

    def tables(self, row: dict, records: list[dict], before: list[dict]) -> list[dict]:
        """Before and after: the declared metrics, then what the workload has beside them."""
        workload, own = self.ladder.workload, device_type(self.records)
        below = self.rows.get(before[-1]["rung"], {}) if before else {}
        lines = [
            (m.title_on(own), m.text(below.get(m.name), ""), m.text(row[m.name], ""))
            for m in (workload.headline, *workload.shown(BRIEF, PAGE))
        ]
        named = {self.words["before_after"]: [one for one in lines if one[1] or one[2]]}
        if before and row["status"] == "ok":
            named |= workload.rung_details(records, before)
        there = below and row["status"] == "ok"
        return [{"title": title, "rows": rows} for title, rows in named.items() if rows and there]


def three_gains(frame: pd.DataFrame, kinds: dict[str, str], lang: str) -> list[dict]:
    """The rows of a table of gains in order, alone, and left out."""
    rows = []
    for row in frame.to_dict("records"):
        cells = []
        for kind in kinds:
            if not present(row[kind]):
                reason = row[f"{kind}_reason"]  # "ok: ": it was, but not what it is held against
                text = "–" if reason.startswith("ok:") else said(reason, lang)
                cells.append({"text": text, "value": "", "kind": "why"})
                continue
            verdict, low, high = (row[f"{kind}_{end}"] for end in ("verdict", "low", "high"))
            ends = f" ({low:.2f} – {high:.2f})" if not math.isnan(low) else ""
            text = f"x{row[kind]:.2f}{ends}: {said(verdict, lang)}"
            one = {"text": text, "value": f"{row[kind]:.6g}", "kind": kind_of(row[kind], verdict)}
            cells.append(one)
        place = {"number": str(row["rung"]), "name": row["name"], "ok": True, "why": ""}
        rows.append(place | {"address": address(row["rung"]), "cells": cells})
    return rows

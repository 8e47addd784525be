"""Rounds that are seeds, some of which never get there: a miss is infinite, and intervals know."""

import math
from dataclasses import replace

import numpy as np
import pytest

from common.engine.gains import Gains
from common.engine.metric import BRIEF, LOWER, SEEDS, Metric
from common.engine.stats import UNCHANGED, is_open
from common.report import plot
from common.report.comparison import compare
from common.report.ending import headline
from common.report.frame import to_csv, to_frame
from common.report.page import to_page
from common.report.tables import to_brief_markdown, to_markdown, to_text
from tests.conftest import fake_record
from tests.seeds import LIMIT, STACKS, USES, Climb, false, found
from tests.walking import LADDER

KINDS = {
    "equal spread": Climb(seeds=12),
    "five seeds": Climb(seeds=5),
    "what a seed's rungs share": Climb(seeds=12, shared=0.2),
    "one rung x6": Climb(
        seeds=12, spread=tuple(0.1 * (6 if rung == 5 else 1) for rung in range(len(STACKS)))
    ),
    "one seed in seven misses": Climb(seeds=12, usual=0.9),
    "most seeds miss": Climb(seeds=12, usual=1.1),
    "five seeds, of which some miss": Climb(seeds=5, usual=0.9),
}


@pytest.mark.parametrize("name", KINDS)
def test_identical_rungs_seldom_differ(name):
    """At most 5 % of tables."""
    assert max(false(KINDS[name], runs=150)) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("name", ["equal spread", "one seed in seven misses"])
def test_two_standard_deviations_of_seeds_are_found_in_nine_of_ten_climbs(name):
    """By as many seeds as the ladder takes by default, of which none is like another."""
    assert min(found(KINDS[name], rung=5, gain=0.2, runs=150)) >= 0.9


def test_a_rung_that_needs_more_is_found_too_unless_the_limit_hides_it():
    assert min(found(KINDS["equal spread"], rung=5, gain=-0.2, runs=100)) >= 0.9
    assert max(found(KINDS["most seeds miss"], rung=5, gain=-0.2, runs=20)) < 0.5


# -- tables and pictures --

REACHES = Metric(
    name="uses", title="uses", of=lambda r: r["measurement"]["uses"], limit=lambda r: LIMIT,
    better=LOWER, noise=SEEDS, words=("fewer", "more"), shown=BRIEF,
)  # fmt: skip
SHARE = Metric(name="reached", title="reached", over="mean", form=".0%",
               of=lambda r: float(math.isfinite(r["measurement"]["uses"])))  # fmt: skip
WORKLOAD = replace(LADDER.workload, metrics=(REACHES, replace(REACHES, name="again"), SHARE))
INF = math.inf


def climbed(values: dict[int, list[float]]) -> list[dict]:
    records = [
        fake_record(rung, turn, 1.0, ladder="tests.walking")
        for rung, of_rung in values.items()
        for turn, _ in enumerate(of_rung, start=1)
    ]
    for record in records:
        record["measurement"]["uses"] = values[record["rung"]][record["round"] - 1]
    return records


FEW = [400.0, 410.0, 420.0, 390.0, 405.0]
SOME = [800.0, 820.0, INF, 790.0, 810.0]
NEVER = [INF] * 5


def test_a_miss_makes_an_end_infinite_and_the_median_stands():
    frame = to_frame(climbed({0: SOME, 1: FEW, 2: NEVER}), WORKLOAD).set_index("rung")
    assert frame["uses"].tolist() == [810, 405, INF]
    assert frame["reached"].tolist() == [0.8, 1, 0]
    assert frame.loc[0, "uses_high"] == INF and 700 < frame.loc[0, "uses_low"] < 810
    assert frame.loc[1, "uses_high"] < 430
    assert frame.loc[1, "x_prev"] == pytest.approx(2.05, abs=0.03)
    assert frame.loc[1, "x_prev_high"] == INF and frame.loc[1, "x_prev_low"] > 1.5
    assert frame.loc[1, "verdict"] == "fewer"
    assert frame.loc[2, "x_prev_low"] == 0 and frame.loc[2, "x_prev_high"] < 0.5
    assert frame.loc[2, "verdict"] == "more"


def test_who_missed_where_its_base_did_not_is_never_called_better():
    """By its other seeds it would be."""
    one_missed = [*FEW[:4], INF]
    frame = to_frame(climbed({0: SOME[:2] * 2 + [810.0], 1: one_missed}), WORKLOAD)
    assert is_open(frame["verdict"].iloc[1])
    assert frame["verdict"].iloc[1].startswith(UNCHANGED)
    assert frame["x_prev_low"].iloc[1] == 0


def test_where_both_missed_nothing_is_known_and_nothing_said():
    table = Gains(climbed({0: NEVER, 1: NEVER}), REACHES)
    assert table.over_below() == {}
    frame = to_frame(climbed({0: SOME, 1: [400.0, 410.0, INF, 390.0, INF]}), WORKLOAD)
    both = Gains(climbed({0: SOME, 1: [400.0, 410.0, INF, 390.0, INF]}), REACHES).over_below()[1]
    assert [part.beyond for part in both] == [0, 0, 0, -1]  # the third round is not there
    assert is_open(frame["verdict"].iloc[1])


def test_every_table_and_picture_bears_it(tmp_path):
    records = climbed({0: SOME, 1: FEW, 2: NEVER})
    frame = to_frame(records, WORKLOAD)
    text = to_text(frame, WORKLOAD)
    assert "810to inf" not in text and "810 to inf" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "inf" in to_csv(frame) and "| inf |" in to_markdown(records, WORKLOAD)
    assert "810 to inf" in to_brief_markdown(records, WORKLOAD)
    assert "divided by" in headline(records, WORKLOAD)
    figure = plot.ladder_figure(frame, records, WORKLOAD)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "810 to inf" in texts and "inf" in texts
    assert all(np.isfinite(axes.get_xlim()).all() for axes in figure.axes)
    page = to_page([records], replace_workload(LADDER))
    assert "nan%" not in page and "inf%" not in page


def replace_workload(ladder):
    return replace(ladder, workload=WORKLOAD)


def test_two_runs_with_misses_can_be_compared():
    runs = [climbed({0: SOME, 1: FEW, 2: NEVER}), climbed({0: SOME, 1: SOME, 2: NEVER})]
    frame = compare(*runs, WORKLOAD).set_index("rung")
    assert frame["a"].tolist() == [810, 405, INF]
    assert frame.loc[2, "ratio"] == 1
    assert frame.loc[1, "verdict"] == "more"


def test_a_metric_without_a_limit_is_as_it_was():
    record = {"uses": 100.0}
    assert replace(USES, limit=None).level(record) == USES.level(record) == (math.log(100), False)
    assert USES.level({"uses": INF}) == (math.log(LIMIT), True)

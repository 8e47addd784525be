"""Reports follow from what a workload declares: here one that has nothing to do with training."""

import subprocess
import sys

import pandas as pd
import pytest

from common.engine.errors import UserError
from common.engine.metric import BRIEF, CSV, EXACT, HIGHER, LOWER, Metric
from common.engine.stats import SAME, UNJUDGED
from common.engine.workload import Workload
from common.report import plot
from common.report.attribution import to_attribution
from common.report.comparison import compare
from common.report.frame import to_csv, to_frame
from common.report.tables import progress_line, to_brief_markdown, to_markdown, to_text
from ladders import of_records
from tests.conftest import PROJECT, fake_record


def read(key: str):
    return lambda record: record["measurement"][key]


def share(rows: list[dict]) -> dict[int, float]:
    """Of the baseline's bytes."""
    first = rows[0].get("file_bytes")
    return {row["rung"]: row["file_bytes"] / first for row in rows if row.get("file_bytes")}


BYTES = Metric(name="file_bytes", title="file, bytes", of=read("bytes"), better=LOWER, noise=EXACT,
               words=("smaller", "larger"))  # fmt: skip


class Packing(Workload):
    def describe(self, records: list[dict]) -> str:
        return "a made-up packer"

    def notes(self, records: list[dict]) -> str:
        return f"{len(records)} measurements"


PACKING = Packing(
    address="",
    metrics=(
        BYTES,
        Metric(name="blocks", title="blocks", of=read("blocks"), shown=BRIEF),
        Metric(name="ids_bytes", title="ids, bytes", of=read("ids"), stack="file", short="ids",
               legend="ids: of the words"),
        Metric(name="rest_bytes", title="rest, bytes", of=read("rest"), stack="file", short="rest"),
        Metric(name="of_first", title="of the baseline", derive=share, form=".0%"),
        Metric(name="seed", title="seed", of=read("seed"), shown=CSV),
    ),
)  # fmt: skip
SPEED = Packing(
    address="",
    metrics=(Metric(name="pages_per_s", title="pages/s", of=read("pages"), better=HIGHER),),
)


def packed(rung: int, turn: int, size: int, **changes) -> dict:
    measurement = {"bytes": size, "blocks": 3, "ids": size - 10, "rest": 10, "seed": None}
    record = fake_record(rung, turn, 1.0, ladder="packing", **changes)
    if record["status"] == "ok":
        record["measurement"] = measurement | {"in_effect": {str(rung): "packed"}, "pages": 1.0}
    return record


RECORDS = [packed(rung, turn, size) for rung, size in enumerate((1000, 999, 999, 1200, 300))
           for turn in (1, 2)]  # fmt: skip
REFUSED = packed(5, 1, 0, applied=[1, 2, 3, 4], status="skipped", reason="no tape", recipe=None)


def test_what_was_counted_has_no_interval_and_any_difference_counts():
    frame = to_frame(RECORDS, PACKING).set_index("rung")
    assert frame["file_bytes"].tolist() == pytest.approx([1000, 999, 999, 1200, 300])
    assert frame[["file_bytes_low", "file_bytes_high", "x_prev_low"]].isna().all(axis=None)
    assert frame["verdict"].tolist()[1:] == ["smaller", SAME, "larger", "smaller"]
    assert frame["x_prev"].tolist()[1:] == pytest.approx([1000 / 999, 1, 999 / 1200, 4])
    assert frame["verdict_base"].tolist()[3:] == ["larger", "smaller"]
    once = to_frame([r for r in RECORDS if r["round"] == 1], PACKING)
    assert once["verdict"].tolist()[1:] == ["smaller", SAME, "larger", "smaller"]


def test_a_metric_may_follow_from_the_whole_table():
    assert to_frame(RECORDS, PACKING)["of_first"].tolist()[-2:] == pytest.approx([1.2, 0.3])


def test_every_table_holds_what_is_declared_and_nothing_of_training():
    frame = to_frame([*RECORDS, REFUSED], PACKING)
    text = to_text(frame, PACKING)
    assert max(map(len, text.splitlines())) <= 80
    assert "x4.00" in text
    assert "does not apply: no tape" in text
    assert text.splitlines()[-1] == "   ids: of the words"
    page, brief = to_markdown(RECORDS, PACKING), to_brief_markdown(RECORDS, PACKING)
    assert "| of the baseline |" in page
    assert "seed" not in page  # only in the CSV
    assert "ids, bytes" not in brief
    assert "seed" in to_csv(frame)
    assert progress_line(RECORDS[0], PACKING).endswith("1,000 bytes        3 blocks  packed")
    for shown in (text, page, brief, to_csv(frame)):
        assert not {"tok", "GiB", "loss", "MFU"} & {*shown.replace(",", " ").split()}


def test_published_gains_stand_in_their_own_column():
    page = to_markdown(RECORDS, PACKING, {"elsewhere": {1: "x9.99"}})
    assert "| elsewhere: x prev |" in page
    assert page.count("x9.99") == 1


def test_two_runs_of_what_is_counted_are_compared_exactly():
    other = [packed(rung, 1, size) for rung, size in enumerate((1000, 998, 1001))]
    frame = compare(RECORDS, other, PACKING).set_index("rung")
    assert frame["verdict"].tolist() == [SAME, "smaller", "larger"]
    assert frame["ratio"].tolist() == pytest.approx([1, 998 / 999, 1001 / 999])
    assert frame["relative"].tolist() == frame["ratio"].tolist()


def test_a_rate_with_one_round_is_not_judged():
    once = [r for r in RECORDS if r["round"] == 1]
    assert set(to_frame(once, SPEED)["verdict"][1:]) == {UNJUDGED}


def test_gains_alone_and_left_out_follow_the_direction():
    alone = [packed(2, turn, 500, applied=[2], series="alone") for turn in (1, 2)]
    frame = to_attribution([*RECORDS, *alone], PACKING).set_index("rung")
    assert frame.loc[2, "alone"] == pytest.approx(2.0)
    assert frame.loc[2, "alone_verdict"] == "smaller"


def test_pictures_are_drawn_from_what_is_declared(tmp_path):
    for workload in (PACKING, SPEED):
        frame = to_frame([*RECORDS, REFUSED], workload)
        plot.plot_ladder(frame, RECORDS, workload, tmp_path / "ladder.png")
        assert (tmp_path / "ladder.png").stat().st_size > 5000
    nothing = to_frame([REFUSED], PACKING)
    plot.plot_ladder(nothing, [REFUSED], PACKING, tmp_path / "none.png")


def test_branches_are_drawn_where_a_rung_does_not_add_to_the_one_below():
    rows = to_frame([packed(n, 1, 10, base=base) for n, base in ((0, None), (1, 0), (2, 0))],
                    PACKING).to_dict("records")  # fmt: skip
    assert [label.rstrip() for label in plot.branches(rows)] == ["0 baseline", "1 rung 1",
                                                                 "└─ 2 rung 2 (on 0)"]  # fmt: skip


def test_what_is_not_measured_is_missing_and_never_0():
    assert to_frame([*RECORDS, REFUSED], PACKING)["seed"].isna().all()
    assert pd.isna(to_frame([REFUSED], PACKING)["file_bytes"].iloc[0])


def test_records_of_a_ladder_that_is_not_ours_are_a_sentence():
    with pytest.raises(UserError, match="records of the ladder packing; known: steps"):
        of_records(RECORDS)


def test_reports_need_no_torch():
    code = (
        "import sys, common.report.plot, common.report.comparison, common.report.attribution\n"
        "found = [name for name in sys.modules if name.partition('.')[0] in ('torch', 'steps')]\n"
        "sys.exit(len(found))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0

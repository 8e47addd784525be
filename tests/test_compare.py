"""compare and check, on records made here; and the three gains."""

import json

import pytest

from common.cli import check, compare
from common.engine.errors import UserError
from common.report.attribution import attribution_markdown, attribution_text, to_attribution
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_ladder, fake_record, run, write_records

STEADY = {
    0: [100, 101, 100],
    1: [200, 199, 201],
    2: [300, 302, 299],
    3: [400, 399, 398],
    4: [500, 503, 500],
}
SLOWER = STEADY | {0: [100, 100, 101], 1: [150, 151, 150], 2: [301, 300, 299]}


@pytest.fixture
def runs(tmp_path):
    other = {"machine": {"device_type": "cpu", "device": "Another CPU", "threads": 2}}
    a = write_records(tmp_path / "a" / "records.jsonl", fake_ladder(STEADY))
    b = write_records(tmp_path / "b" / "records.jsonl", fake_ladder(SLOWER, **other))
    return a.parent, b.parent


def test_compare_prints_what_differs_before_the_ratios(runs, capsys):
    assert compare.main([str(runs[0]), str(runs[1] / "records.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "what differs:"
    assert lines[1] == "  machine.device: Made-up CPU -> Another CPU"
    ratios = {line[:2].strip(): line for line in lines[3:]}
    assert "0.75" in ratios["1"]
    assert ratios["1"].endswith("slower")
    assert "  <" in ratios["2"]
    assert max(map(len, lines)) <= 80


def test_check_ends_with_1_when_a_rung_is_slower(runs, capsys):
    assert check.main(["--against", str(runs[0]), str(runs[1])]) == 1
    assert "1 of 5 rungs are slower" in capsys.readouterr().out
    assert check.main(["--against", str(runs[0]), str(runs[0])]) == 0
    assert check.main(["--against", str(runs[1]), str(runs[0])]) == 0  # faster is no failure


def test_a_half_written_last_line_is_passed_over(runs):
    with (runs[0] / "records.jsonl").open("a") as file:
        file.write(json.dumps(fake_record(2, 4, 1.0))[:200])
    assert check.main(["--against", str(runs[0]), str(runs[0])]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no records there"),
        ("rung,name\n0,baseline\n", "holds no records"),
        ('{"schema": 2, "run_id": "x"}\n', "newer version (schema 2)"),
        (json.dumps(fake_record(0, 1, 1.0, ladder="memory")) + "\n", "different ladders"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(runs, tmp_path, refusal, content, message):
    baseline = tmp_path / "baseline.jsonl"
    if content:
        baseline.write_text(content)
    assert message in refusal(check.main, ["--against", str(baseline), str(runs[1])])


@pytest.mark.parametrize(
    ("against", "status"), [(("--against",), 1), ((), 2)], ids=["slower", "against what?"]
)
def test_the_process_ends_with_the_status(runs, against, status):
    done = run("-m", "steps.check", *against, *map(str, runs))
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error: ") == (status == 2)


def test_a_number_that_is_another_rung_is_not_compared(tmp_path, capsys):
    """A ladder was numbered anew between two runs: rung 2 of one is not rung 2 of the other."""
    whole = fake_ladder(STEADY)
    moved = [r | ({"name": "another idea"} if r["rung"] == 2 else {}) for r in whole]
    a, b = (
        write_records(tmp_path / name / "records.jsonl", records)
        for name, records in (("a", whole), ("b", moved))
    )
    assert compare.main([str(a), str(b)]) == 0
    table, _, rest = capsys.readouterr().out.partition("not compared, as A -> B:")
    assert "another idea" not in table
    told = " ".join(rest.split())
    assert told == "2 another idea ok, on 1 (rung 2) -> ok, on 1 (another idea)"
    assert check.main(["--against", str(a), str(b)]) == 1


def lose(records: list[dict], how: str) -> list[dict]:
    """A run of which rung 1 has no figure, or not on the same rungs."""
    rest = [r for r in records if r["rung"] != 1]
    failed = [r | {"status": "failed", "reason": "it broke"} for r in records if r["rung"] == 1]
    skipped = [r | {"status": "n/a", "reason": "no card"} for r in records if r["rung"] == 1]
    above = [r | ({"applied": [2]} if r["rung"] == 2 else {}) for r in rest]
    return {
        "failed": rest + failed,
        "failed once": [r for r in records if r["rung"] != 1 or r["round"] > 1] + failed[:1],
        "skipped": rest + skipped[:1],
        "gone": rest,
        "below": above + failed[:1],
        "rest": records[:9] + [r | {"status": "timeout"} for r in records[9:]],
    }[how]


@pytest.mark.parametrize(
    ("how", "named", "counted"),
    [
        ("failed", ["1 rung 1 ok, on no rung -> failed: it broke"], "0 of 4"),
        ("failed once", ["1 rung 1 ok, on no rung -> failed: it broke"], "0 of 4"),
        ("skipped", ["1 rung 1 ok, on no rung -> does not apply: no card"], "0 of 4"),
        ("gone", ["1 rung 1 ok, on no rung -> not measured"], "0 of 4"),
        ("below", ["-> failed: it broke", "2 rung 2 ok, on 1 -> ok, on no rung"], "0 of 3"),
        (
            "rest",
            ["3 rung 3 ok, on 1, 2 -> timeout:", "4 rung 4 ok, on 1, 2, 3 -> timeout:"],
            "0 of 3",
        ),
    ],
)
def test_what_has_no_figure_any_more_is_no_good_news(tmp_path, capsys, how, named, counted):
    whole = fake_ladder(STEADY)
    a = write_records(tmp_path / "a" / "records.jsonl", whole)
    b = write_records(tmp_path / "b" / "records.jsonl", lose(whole, how))
    assert check.main(["--against", str(a), str(b)]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"not compared: {one}" in told or one in told for one in named)
    assert f"{counted} rungs are slower" in told
    assert f"{len(named)} more could not be compared; {len(named)} of them had a target" in told
    assert compare.main([str(a), str(b)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(one in told for one in named)
    assert check.main(["--against", str(b), str(a)]) == (how == "below")  # more is no loss
    assert f"{len(named)} more could not be compared" in capsys.readouterr().out


def test_what_both_runs_lack_is_not_counted(tmp_path, capsys):
    run = write_records(tmp_path / "records.jsonl", lose(fake_ladder(STEADY), "failed"))
    assert check.main(["--against", str(run), str(run)]) == 0
    assert "could not be compared" not in capsys.readouterr().out


@pytest.mark.parametrize("field", ["measurement", "name"])
def test_records_that_lack_something_are_a_sentence(runs, tmp_path, refusal, field):
    records = [{k: v for k, v in r.items() if k != field} for r in fake_ladder(STEADY)]
    other = write_records(tmp_path / "c" / "records.jsonl", records)
    options = ["--against", str(runs[0]), str(other)]
    assert "records of another kind" in refusal(check.main, options)


def test_different_shapes_are_refused(runs, tmp_path):
    records = fake_ladder(STEADY)
    for record in records:
        record["settings"]["shape"]["layers"] = 99
    other = write_records(tmp_path / "c" / "records.jsonl", records)
    with pytest.raises(UserError, match="cannot be compared: different shapes: layers 2 and 99"):
        compare.main([str(runs[0]), str(other)])


def test_without_two_rounds_check_cannot_judge(tmp_path):
    once = write_records(tmp_path / "records.jsonl", fake_ladder({0: [100], 1: [50]}))
    with pytest.raises(UserError, match="--rounds 2 or more"):
        check.main(["--against", str(once), str(once)])


@pytest.fixture
def attributed() -> list[dict]:
    """Rung 1 helps only below rung 2; rung 3 does not apply."""
    refused = {"status": "skipped", "reason": "no such card"}
    records = fake_ladder({0: [100, 101], 1: [200, 201], 2: [400, 404]})
    records += [
        fake_record(3, 1, 1.0, applied=[1, 2], recipe=None, **refused),
        *(fake_record(2, t, 390 + t, applied=[2], series="alone") for t in (1, 2)),
        fake_record(3, 1, 1.0, applied=[], series="alone", **refused),
        *(fake_record(1, t, 391 + t, applied=[2], series="without") for t in (1, 2)),
        fake_record(3, 1, 1.0, applied=[], series="without", **refused),
    ]
    return records


def test_three_gains(attributed):
    frame = to_attribution(attributed, TRAINING).set_index("rung")
    assert frame.loc[1, "in_order"] == pytest.approx(2.0, rel=0.02)
    assert frame.loc[1, "alone"] == pytest.approx(2.0, rel=0.02)  # the ladder's own rung 1
    assert frame.loc[1, "left_out"] == pytest.approx(1.02, rel=0.02)
    assert frame.loc[2, "alone"] == pytest.approx(3.9, rel=0.02)
    assert frame.loc[2, "left_out"] == pytest.approx(2.0, rel=0.02)  # the ladder's own rung 1
    assert frame.loc[2, "left_out_verdict"] == "faster"


def test_a_rung_that_cannot_stand_alone_says_so(attributed):
    frame = to_attribution(attributed, TRAINING)
    markdown = attribution_markdown(frame)
    assert markdown.count("does not apply: no such card") == 3
    text = attribution_text(frame)
    assert max(map(len, text.splitlines())) <= 80
    assert "does not apply" in text.splitlines()[-1]

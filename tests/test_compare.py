"""compare and check, on records made here; and the three gains."""

import json

import pytest

from common.cli import check, compare
from common.engine.errors import UserError
from common.report.attribution import attribution_markdown, attribution_text, to_attribution
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_ladder, fake_record, run, write_records

STEADY = {0: [100, 101, 100], 1: [200, 199, 201], 2: [300, 302, 299]}
SLOWER = {0: [100, 100, 101], 1: [150, 151, 150], 2: [301, 300, 299]}


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
    assert ratios["2"].endswith("~")
    assert max(map(len, lines)) <= 80


def test_check_ends_with_1_when_a_rung_is_slower(runs, capsys):
    assert check.main(["--against", str(runs[0]), str(runs[1])]) == 1
    assert "1 of 3 rungs are slower" in capsys.readouterr().out
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
    records = fake_ladder({0: [100, 101], 1: [200, 201], 2: [400, 404]})
    records += [
        fake_record(3, 1, 1.0, applied=[1, 2], status="n/a", reason="no such card", recipe=None),
        *(fake_record(2, t, 390 + t, applied=[2], series="alone") for t in (1, 2)),
        fake_record(3, 1, 1.0, applied=[], status="n/a", reason="no such card", series="alone"),
        *(fake_record(1, t, 391 + t, applied=[2], series="without") for t in (1, 2)),
        fake_record(3, 1, 1.0, applied=[], status="n/a", reason="no such card", series="without"),
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
    assert markdown.count("n/a: no such card") == 3
    text = attribution_text(frame)
    assert max(map(len, text.splitlines())) <= 80
    assert "n/a" in text.splitlines()[-1]

"""Intervals know turns and processes, and noise is not called a gain."""

import math

import numpy as np
import pytest

from common.engine import stats
from common.engine.gains import Gains
from common.engine.stats import FASTER, UNCHANGED, UNJUDGED, Part, is_open
from common.report.frame import to_frame
from common.report.tables import control, control_text, to_markdown, to_text
from common.workloads.train.metrics import share_of
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_ladder, fake_record
from tests.noise import KINDS, MACHINES, RATE, Machine, climbed, false_tables, found, record


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_the_same_is_seldom_called_faster_or_slower(name):
    """At most 5 % of tables; here of 60, and of thousands in bench_calibration.py."""
    wrong = false_tables(MACHINES[name], runs=60)
    assert set(wrong) == set(KINDS)
    assert max(wrong.values()) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 60)


def test_a_real_gain_is_found():
    assert found(Machine(), gain=0.05, runs=20) >= 0.9


@pytest.mark.parametrize("dof", [1, 2, 5, 30])
def test_students_t(dof):
    generator = np.random.default_rng(0)
    draws = np.abs(generator.standard_t(dof, 1_000_000))
    for confidence in (0.5, 0.95, 0.998):
        expected = np.quantile(draws, confidence)
        assert stats.student_t(confidence, dof) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("turns", "luck"), [(12, 0.0), (12, 0.02), (0, 0.02)])
def test_the_interval_covers_the_truth_as_often_as_it_says(turns, luck):
    generator = np.random.default_rng(3)
    covered = []

    def part() -> Part:
        value = generator.normal(0, luck)
        return (
            stats.from_turns(generator.normal(value, 0.03, turns)) if turns else Part(value=value)
        )

    for _ in range(150):
        bounds = stats.estimates({rung: [part() for _ in range(3)] for rung in range(9)})
        covered += [not estimate.told for estimate in bounds.values()]
    assert 0.93 <= np.mean(covered) <= 0.995


def test_more_turns_narrow_what_is_between_the_rungs_of_a_turn():
    """Drift meets all alike: a rate is known badly, and a ratio well."""
    machine = Machine(drift=0.2, luck=(0.001,) * 12)
    few, many = (climbed(machine, np.random.default_rng(5), turns=turns) for turns in (6, 60))

    def width(table: Gains) -> float:
        return np.median([e.half for e in table.told(table.over_below()).values()])

    assert width(many) < width(few) / 2
    rates = stats.estimates({k: [Part(value=v) for v in many.levels[k].values()] for k in [()]})
    assert not rates[()].half < 10 * width(many)


def test_of_one_process_only_rounds_narrow_an_interval():
    def width(rounds, steps):
        generator = np.random.default_rng(5)
        records = []
        for rung in range(4):
            for turn in range(1, rounds + 1):
                rate = 100 * math.exp(generator.normal(0, 0.1))
                record = fake_record(rung, turn, rate)
                record["measurement"]["step_s"] *= steps
                records.append(record)
        row = to_frame(records, TRAINING).iloc[0]
        return row["tok_per_s_high"] / row["tok_per_s_low"]

    assert width(rounds=2, steps=100) == pytest.approx(width(rounds=2, steps=1))
    assert width(rounds=8, steps=1) < width(rounds=2, steps=1)


def test_who_was_not_in_the_same_turns_is_joined_by_who_was():
    """Rungs 0, 1, 2 take turns, then 2 and 3 while the machine is half as fast."""
    records = []
    for turn in (1, 2):
        fast = {0: 1.0, 1: 0.5, 2: 0.25}
        slow = {2: 0.5, 3: 0.25}
        for group, seconds in enumerate((fast, slow), start=1):
            noise = 1 + 0.001 * np.random.default_rng(turn).random(8)
            records += [
                record(rung, turn, s * noise, alone=False) | {"group": group}
                for rung, s in seconds.items()
            ]
    frame = to_frame(records, TRAINING).set_index("rung")
    assert frame["x_prev"].tolist()[1:] == pytest.approx([2, 2, 2], rel=1e-2)
    assert frame["x_base"].tolist()[1:] == pytest.approx([2, 4, 8], rel=1e-2)
    assert frame["rounds"].tolist() == [2, 2, 2, 2]


def twins(ratio: float) -> list[dict]:
    """Two rungs in turns, the second twice as fast, and its twin, which is `ratio` times that."""
    generator, records = np.random.default_rng(6), []
    for turn in (1, 2, 3):
        noise = 1 + 0.01 * generator.standard_normal((3, 12))
        base, rung, twin = (s * n for s, n in zip((1, 0.5, 0.5 / ratio), noise, strict=True))
        records += [record(0, turn, base, False), record(1, turn, rung, False)]
        records.append(record(1, turn, twin, False) | {"series": "twin"})
    return records


def test_a_twin_is_the_noise_floor_and_one_that_differs_voids_the_verdicts():
    for ratio, differs in ((1.0, False), (1.2, True)):
        records = twins(ratio)
        seen, frame = control(records, TRAINING), to_frame(records, TRAINING)
        assert seen["ratio"] == pytest.approx(ratio, rel=0.01)
        assert seen["differs"] == differs
        assert ("judges nothing" in control_text(seen)) == differs
        assert frame["verdict"].iloc[1] == (UNJUDGED if differs else FASTER)
        assert len(frame) == 2


def test_where_no_gain_is_told_it_is_said_how_small_it_must_be():
    table = climbed(Machine(), np.random.default_rng(1))
    estimates = table.told(table.over_below())
    for rung, said in table.verdicts(table.over_below()).items():
        assert said == f"{UNCHANGED} {stats.percent(stats.smallest(estimates[rung]))}"
        assert is_open(said)
    frame = to_frame(table.records, TRAINING)
    share = frame["smallest_gain"].iloc[1]
    assert 0.005 < share < 0.05
    assert f"<{100 * share:.2g}%" in to_text(frame, TRAINING)


def test_one_round_is_not_judged():
    frame = to_frame(fake_ladder({0: [100.0], 1: [300.0]}), TRAINING)
    assert frame["verdict"].iloc[1] == UNJUDGED
    assert frame["tok_per_s_low"].isna().all()
    text = to_text(frame, TRAINING)
    assert "x3.00" not in text
    assert "--rounds 2 or more" in text


def test_what_is_not_measurable_is_never_printed_as_a_gain():
    rates = {0: [100, 104], 1: [104, 100], 2: [1400, 1380]}
    records = fake_ladder(rates)
    frame = to_frame(records, TRAINING)
    assert is_open(frame["verdict"].iloc[1])
    assert frame["verdict"].iloc[2] == FASTER
    for shown in (to_text(frame, TRAINING), to_markdown(records, TRAINING)):
        assert "x1.0" not in shown.replace("x1.00 |", "")  # the published column may say x1.00
        assert "x13.6" in shown
    assert "<" in to_text(frame, TRAINING)


def test_a_generation_that_was_begun_again_is_not_mixed_with_what_it_left():
    whole = twins(1.0)
    torn = [dict(r, generation="torn") for r in whole if r["round"] == 3]
    for one in torn:
        one["measurement"] = one["measurement"] | {"step_s": [9.0] * 12}
    table = Gains([*whole[:6], *torn, *whole[6:]], RATE)
    assert table.records == whole


def test_the_gain_is_over_the_rung_it_was_added_to():
    records = fake_ladder({0: [100, 100], 1: [110, 110]})
    refused = fake_record(2, 1, 1.0, applied=[1], status="skipped", reason="no", recipe=None)
    third = [fake_record(3, turn, 220, applied=[1, 3]) for turn in (1, 2)]
    frame = to_frame([*records, refused, *third], TRAINING).set_index("rung")
    assert frame.loc[3, "x_prev"] == pytest.approx(2.0)
    assert frame.loc[3, "x_base"] == pytest.approx(2.2)
    assert math.isnan(frame.loc[2, "tok_per_s"])


def test_a_resumed_run_counts_its_last_record():
    failed = fake_record(0, 1, 1.0, status="failed", reason="killed", measurement={})
    frame = to_frame([failed, fake_record(0, 1, 100.0)], TRAINING)
    assert list(frame["status"]) == ["ok"]
    assert frame["tok_per_s"].iloc[0] == pytest.approx(100.0)


def test_mfu_cannot_exceed_one():
    """A faked device whose listed peak the rate beats: the peak must be wrong, so no MFU."""
    fast = fake_record(0, 1, 1e6, peak_flops=1e8, flops_per_token=1000)  # 10 times the peak
    slow = fake_record(0, 1, 1e4, peak_flops=1e8, flops_per_token=1000)
    assert math.isnan(to_frame([fast], TRAINING)["mfu"].iloc[0] or math.nan)
    assert to_frame([slow], TRAINING)["mfu"].iloc[0] == pytest.approx(0.1)
    assert share_of(1.0, None) is None


def test_energy_is_per_thousand_tokens_and_missing_is_not_zero():
    window = {"energy_j": 9.6, "utilisation": 0.5}
    record = fake_record(0, 1, 100.0, window=window)  # 3 steps of 32 tokens
    assert to_frame([record], TRAINING)["joule_per_ktok"].iloc[0] == pytest.approx(100.0)
    assert to_frame([fake_record(0, 1, 100.0)], TRAINING)["joule_per_ktok"].isna().all()


def test_a_share_has_two_digits_or_no_end():
    assert [stats.percent(share) for share in (0.0213, 0.126, math.inf)] == ["2.1 %", "13 %", "∞ %"]

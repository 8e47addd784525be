"""Intervals count rounds, and noise is not called a gain."""

import math

import numpy as np
import pytest

from common.engine import stats
from common.engine.stats import FASTER, SLOWER, UNCHANGED, UNJUDGED
from common.report.frame import to_frame
from common.report.tables import to_markdown, to_text
from common.workloads.train.metrics import share_of
from common.workloads.train.workload import TRAINING
from tests.conftest import fake_ladder, fake_record


def noisy(generator, rungs=9, rounds=2, sigma=0.08) -> dict[int, list[float]]:
    """Log gains of rungs that gain nothing, on a machine where a process is off by `sigma`."""
    return {n: list(generator.normal(0.0, sigma, rounds)) for n in range(rungs)}


@pytest.mark.parametrize("rounds", [2, 3])
def test_a_ladder_without_gains_is_seldom_called_faster_or_slower(rounds):
    generator = np.random.default_rng(1)
    tables = [stats.verdicts(noisy(generator, rounds=rounds)) for _ in range(200)]
    wrong = [sum(verdict != UNCHANGED for verdict in table.values()) for table in tables]
    assert np.mean([count > 0 for count in wrong]) <= 0.08  # 5 % of tables, and luck
    assert sum(wrong) / (200 * 9) <= 0.02


def test_two_identical_runs_are_seldom_called_different():
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        a, b = noisy(generator), noisy(generator)
        pairs = {n: (a[n], b[n]) for n in a}
        wrong += any(v != UNCHANGED for v in stats.difference_verdicts(pairs).values())
    assert wrong / 200 <= 0.08


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        bounds = stats.intervals(noisy(generator, rounds=3))
        covered += [low <= 0 <= high for low, high in bounds.values()]
    assert 0.92 <= np.mean(covered) <= 0.99


def test_a_real_gain_is_found_both_ways():
    generator = np.random.default_rng(4)
    groups = noisy(generator, sigma=0.01)
    groups[0] = [value + math.log(1.3) for value in groups[0]]
    groups[1] = [value - math.log(1.3) for value in groups[1]]
    found = stats.verdicts(groups)
    assert (found[0], found[1], found[2]) == (FASTER, SLOWER, UNCHANGED)


def test_more_steps_do_not_narrow_the_interval_but_more_rounds_do():
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


def test_one_round_is_not_judged():
    frame = to_frame(fake_ladder({0: [100.0], 1: [300.0]}), TRAINING)
    assert frame["verdict"].iloc[1] == UNJUDGED
    assert frame["tok_per_s_low"].isna().all()
    text = to_text(frame, TRAINING)
    assert "x3.00" not in text
    assert "--rounds 2 or more" in text


def test_what_is_not_measurable_is_never_printed_as_a_gain():
    rates = {0: [100, 130], 1: [120, 110], 2: [400, 380]}
    records = fake_ladder(rates)
    frame = to_frame(records, TRAINING)
    assert list(frame["verdict"].iloc[1:]) == [UNCHANGED, FASTER]
    for shown in (to_text(frame, TRAINING), to_markdown(records, TRAINING)):
        assert "x1.0" not in shown.replace("x1.00 |", "")  # the published column may say x1.00
        assert "x3.3" in shown
    assert "~" in to_text(frame, TRAINING)


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

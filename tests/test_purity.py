"""Tests that try to fool the clock. The number must not move, or the rung must be void."""

import time
from dataclasses import replace

import pytest
import torch

from common.engine.contract import Disturbed
from common.engine.watch import HostWatch
from common.workloads.train import session as clock
from common.workloads.train.batches import make_loader
from common.workloads.train.build import train_step
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.settings import Settings
from tests.conftest import measured

RECIPE = baseline("tiny")
SETTINGS = Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=3, warmup=2)


def test_a_slow_loader_start_up_is_outside(monkeypatch):
    class SlowToStart:
        def __init__(self, *arguments):
            self.loader = make_loader(*arguments)

        def __iter__(self):
            time.sleep(6.0)
            return iter(self.loader)

    monkeypatch.setattr(clock, "make_loader", SlowToStart)
    found = measured(RECIPE, SETTINGS)
    assert found.startup_s > 6.0
    assert found.window_s < 6.0
    assert found.first_step_s < 6.0


def test_a_slow_loader_is_inside_and_is_named():
    """Waiting for data is part of a training step, and shows in its own column."""

    class Slow:
        def __init__(self, *arguments):
            self.loader = make_loader(*arguments)

        def __iter__(self):
            for batch in self.loader:
                time.sleep(0.5)
                yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "make_loader", Slow)
        found = measured(RECIPE, SETTINGS)
    assert found.data_wait_s >= 1.5
    assert min(found.step_s) > 0.5


def test_a_recompilation_in_the_window_voids_it():
    def meddle(run):  # the probe is the last thing before the window
        run.model.dropout.p = 0.25
        return {}

    with pytest.raises(Disturbed, match="compiled again within the timed steps"):
        measured(replace(RECIPE, compile=True), SETTINGS, meddle)


def test_a_step_that_returns_the_previous_output_voids_it(monkeypatch):
    outputs = []

    def stale(run, inputs, targets):
        if len(outputs) < 2:  # honest through the warm-up
            outputs.append(train_step(run, inputs, targets))
        return outputs[-1]

    monkeypatch.setattr(clock, "train_step", stale)
    with pytest.raises(Disturbed, match=r"5 steps made 2 updates"):
        measured(RECIPE, SETTINGS)


def test_a_step_that_forgets_to_update_voids_it(monkeypatch):
    def idle(run, inputs, targets):
        weights = [parameter.detach().clone() for parameter in run.inner.parameters()]
        loss = train_step(run, inputs, targets)
        with torch.no_grad():
            for parameter, before in zip(run.inner.parameters(), weights, strict=True):
                parameter.copy_(before)
        return loss

    monkeypatch.setattr(clock, "train_step", idle)
    with pytest.raises(Disturbed, match="weights did not change"):
        measured(RECIPE, SETTINGS)


def test_a_cached_batch_voids_it(monkeypatch):
    class Cached:
        def __init__(self, *arguments):
            self.batch = next(iter(make_loader(*arguments)))

        def __iter__(self):
            while True:
                yield self.batch

    monkeypatch.setattr(clock, "make_loader", Cached)
    with pytest.raises(Disturbed, match="5 steps were fed the windows of 1"):
        measured(RECIPE, SETTINGS)


def test_a_loader_that_is_one_batch_late_voids_it(monkeypatch):
    class Late:
        """Draws what it should, and gives what it gave before."""

        def __init__(self, *arguments):
            self.loader = make_loader(*arguments)

        def __iter__(self):
            batches = iter(self.loader)
            for first, _ in zip(batches, batches, strict=False):
                yield from (first, first)

    monkeypatch.setattr(clock, "make_loader", Late)
    with pytest.raises(Disturbed, match="2 steps were not fed the windows whose turn it was"):
        measured(RECIPE, SETTINGS)


@pytest.mark.parametrize("words", [8000, 350])
def test_a_text_that_repeats_itself_or_is_short_is_no_disturbance(tmp_path, words):
    """All its windows hold the same; the short one has fewer than a run takes."""
    text = tmp_path / "text.txt"
    text.write_text("hello\n" * words)
    settings = replace(SETTINGS, steps=12, text=str(text))
    found = measured(RECIPE, settings)
    assert (found.passes > 1) == (words == 350)
    assert len(found.losses) == 14


def test_the_parts_of_the_window_add_up():
    found = measured(RECIPE, SETTINGS)
    assert len(found.step_s) == SETTINGS.steps
    assert len(found.losses) == SETTINGS.steps + SETTINGS.warmup
    assert sum(found.step_s) <= found.window_s
    assert found.data_wait_s < found.window_s
    assert 0 < found.cpu_share <= 1.05


def test_the_host_watch_counts_this_machine():
    watch = HostWatch()
    assert watch.stop() == {}
    watch.start(1)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        pass
    window = watch.stop()
    assert 0.0 < window["cpu_busy"] <= 1.0
    assert window["load_1m"] >= 0.0

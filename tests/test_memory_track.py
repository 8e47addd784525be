"""The tracker: phases, peaks, and planted leaks, each found at the line that allocated it."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.gpt.shape import Shape
from common.memory import track
from common.memory.tracker import Tracker
from common.workloads.train.build import build, train_step
from common.workloads.train.recipe import Recipe
from common.workloads.train.tensor_memory import count_update
from tests.conftest import width

HERE, STEPS = Path(__file__).name, 5
TINY = ("--preset", "tiny", "--device", "cpu")


class Net(nn.Module):
    """Two layers, of which a leak holds what lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(x)
        active = F.gelu(hidden)
        return self.narrow(active)


def line_of(function, text: str) -> str:
    """ "file:line" of the line of a function that has the text."""
    lines, first = inspect.getsourcelines(function)
    return f"{HERE}:{first + next(i for i, line in enumerate(lines) if text in line)}"


class Leaks:
    """What a training forgets to let go of."""

    def __init__(self) -> None:
        self.losses, self.cache, self.activations = [], {}, []

    def validate(self, model: nn.Module) -> None:
        """Forgets no_grad, and keeps the loss with its graph."""
        loss = model(torch.ones(32, 64)).square().mean()
        self.losses.append(loss)

    def look_up(self, step: int) -> None:
        self.cache[step] = torch.zeros(1000)  # no step is ever taken out

    def hook(self, module: nn.Module, inputs, output: torch.Tensor) -> None:
        self.activations.append(output.detach())


def train(leak: str = "", steps: int = STEPS) -> Tracker:
    leaks = Leaks()
    with Tracker() as tracker:
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
        tracker.follow(model, optimizer)
        if leak == "hook":
            model.wide.register_forward_hook(leaks.hook)
        for step in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(32, 64)).square().mean()
            loss.backward()
            optimizer.step()
            if leak == "losses":
                leaks.validate(model)
            if leak == "cache":
                leaks.look_up(step)
            tracker.step()
    return tracker


def test_a_clean_training_has_no_leak():
    tracker = train()
    assert tracker.leaks() == []
    assert tracker.graphs == []
    assert track.growth(tracker) == [f"Nothing grew from step 2 to step {STEPS}."]


def test_a_list_of_losses_is_found_by_its_graphs():
    tracker = train("losses")
    sites = [str(leak) for leak in tracker.leaks()]
    for text in ("self.wide(x)", "F.gelu(hidden)"):
        assert any(line_of(Net.forward, text) in site for site in sites)
    assert len(tracker.graphs) == 1
    kept = str(tracker.graphs[0])
    assert line_of(Leaks.validate, "square().mean()") in kept
    assert f"{STEPS - 1} tensor(s) []" in kept
    assert "tensor.item()" in kept


def test_a_growing_cache_is_found_at_its_line():
    [leak] = train("cache").leaks()
    assert leak.per_step == 4000
    assert f"{line_of(Leaks.look_up, 'torch.zeros')}, called from" in str(leak)
    assert leak.grew == 4000 * (STEPS - 2)


def test_activations_that_a_hook_holds_are_found_at_the_line_that_made_them():
    [leak] = train("hook").leaks()
    assert leak.per_step == 4 * 32 * 256
    assert line_of(Net.forward, "self.wide(x)") in str(leak)
    assert "(forward)" in str(leak)


def test_a_cycle_is_told_from_what_is_held():
    class Node:
        pass

    with Tracker() as tracker:
        for _ in range(STEPS):
            node = Node()
            node.itself, node.tensor = node, torch.zeros(5000)
            tracker.step()
        del node
    [leak] = tracker.leaks()
    assert leak.collected >= 20_000 * (STEPS - 1)
    assert "reference cycles" in str(leak)


def test_numbers_that_are_kept_are_no_leak():
    with Tracker() as tracker:
        kept = []
        for _ in range(STEPS):
            kept.append(torch.ones(()) * 2)
            tracker.step()
    assert tracker.leaks() == []
    assert len(kept) == STEPS


def test_three_steps_are_too_few_to_tell():
    assert train("cache", steps=3).leaks() == []


@pytest.mark.parametrize("tokens", [16, 64])
def test_peaks_are_those_of_the_counter(tokens):
    shape = Shape(layers=2, heads=2, emb_dim=32, context=tokens, vocab_size=509)
    ids = torch.zeros(2, tokens, dtype=torch.int64)

    def fresh():
        return build(Recipe(batch_size=2, dropout=0.0), shape, torch.device("cpu"))

    counted = fresh()
    train_step(counted, ids, ids)
    peak = count_update(counted, lambda: train_step(counted, ids, ids)).peak
    with Tracker() as tracker:
        run = fresh()
        tracker.follow(run.objective, run.optimizer)
        for _ in range(4):
            train_step(run, ids, ids)
            tracker.step()
    last = [phase.peak for phase in tracker.summary() if phase.step == 4]
    assert max(last) == pytest.approx(peak, rel=0.001)  # the loss of the step before is alive


def test_phases_follow_each_other_and_add_up():
    tracker = train()
    names = [phase.name for phase in tracker.summary() if phase.step == 2]
    assert names == ["between", "forward", "backward", "update"]
    assert tracker.summary()[0].name == "build"
    weights = 4 * sum(p.numel() for p in Net().parameters())
    by_phase = {phase.name: phase for phase in tracker.summary() if phase.step == 1}
    assert by_phase["update"].change >= 2 * weights  # the moments
    assert by_phase["backward"].after >= 2 * weights  # with the gradients
    changes = sum(phase.change for phase in tracker.summary() if phase.step <= STEPS)
    last = [phase for phase in tracker.summary() if phase.step == STEPS][-1]
    assert changes == pytest.approx(last.after)


def test_phases_may_be_named_by_hand():
    with Tracker() as tracker:
        tracker.phase("load")
        kept = torch.zeros(1000)
        tracker.step()
    assert [(p.name, p.change) for p in tracker.summary() if p.change > 0] == [("load", 4000)]
    assert kept.numel() == 1000


def test_a_tensor_of_before_is_counted_once_and_its_views_are_not():
    before = torch.zeros(1000)
    with Tracker() as tracker:
        views = [before[:10] + 0, before.view(10, 100), before[5:]]
        alive = tracker.bytes
    assert alive == 4000 + 40
    assert len(views) == 3


def test_the_command_says_phases_peaks_and_that_nothing_grew(capsys):
    assert track.main([*TINY, "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert width(said) <= 80
    for word in ("build", "forward", "backward", "update", "step 4"):
        assert word in said
    assert "Steps 2 to 4 have one peak:" in said
    assert "Nothing grew from step 2 to step 4." in said


def test_a_rung_of_the_memory_ladder_is_followed(capsys):
    """Accumulation: forward and backward passes take turns, and stand in one line each."""
    assert track.main([*TINY, "--batch-size", "8", "--steps", "4", "--rung", "3"]) == 0
    said = capsys.readouterr().out
    assert sum(line.split()[:1] == ["forward"] for line in said.splitlines()) == 2
    assert "Nothing grew" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rung", "3"), "--rung 3: 8 parts do not divide a batch of 2 windows"),
        (("--rung", "14"), "--rung: 14: must be at most 13"),
        (("--steps", "3"), "--steps: 3: must be a whole number from 4 on"),
        (("--heads", "3"), "--heads 3: does not divide --emb-dim 32"),
        (("--text", "/no/such.txt"), "--text /no/such.txt: no such file"),
        (("--out", ""), "--out: the name of a folder is needed"),
    ],
)
def test_bad_input_is_one_sentence(refusal, options, message):
    assert message in refusal(track.main, [*TINY, *options])

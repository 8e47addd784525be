"""Learning rates by their closed form: over epochs, in parts, and after a restart."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from common.gpt.shape import Shape
from common.scripts import trainer
from common.workloads.train import plot_losses as plotting
from common.workloads.train.build import build, train_step
from common.workloads.train.recipe import Recipe
from common.workloads.train.schedule import FLOOR, Constant, Cosine, OneCycle, Rates
from tests.test_going_on import Place, losses

PEAK = 5e-4  # the scripts'


def optimizer(rate: float = 0.01) -> torch.optim.AdamW:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=rate, betas=(0.9, 0.99))


def rates(schedule, count: int, rate: float = 0.01) -> list[float]:
    adamw = optimizer(rate)
    own, found = Rates(adamw, schedule), []
    for _ in range(count):
        assert own.now == pytest.approx(rate * schedule.factor(len(found)))
        own.next()
        found.append(adamw.param_groups[0]["lr"])
    assert adamw.param_groups[0]["betas"] == (0.9, 0.99)
    return found


def torchs(make, count: int) -> list[float]:
    """A scheduler's rates, stepped once an update."""
    adamw = optimizer()
    scheduler, found = make(adamw), []
    for _ in range(count):
        found.append(adamw.param_groups[0]["lr"])
        adamw.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("updates", [21, 23, 100])
@pytest.mark.parametrize("share", [0.3, 0.1])
def test_one_cycle_is_torchs_but_for_momentum(updates, share):
    expected = torchs(
        lambda adamw: torch.optim.lr_scheduler.OneCycleLR(
            adamw, max_lr=0.01, total_steps=updates, pct_start=share, cycle_momentum=False
        ),
        updates - 1,  # torch's refuses to go beyond its end
    )
    found = rates(OneCycle(updates, share), updates + 2)
    assert found[: updates - 1] == pytest.approx(expected)
    assert found[updates - 1 :] == pytest.approx([0.01 / 25 / 1e4] * 3)


@pytest.mark.parametrize("updates", [10, 23])
def test_a_cosine_is_torchs_down_to_its_floor(updates):
    expected = torchs(
        lambda adamw: torch.optim.lr_scheduler.CosineAnnealingLR(
            adamw, T_max=updates, eta_min=0.01 * FLOOR
        ),
        updates + 1,
    )
    found = rates(Cosine(updates), updates + 3)
    assert found[: updates + 1] == pytest.approx(expected)
    assert found[updates:] == pytest.approx([0.01 * FLOOR] * 3)


def test_a_rise_is_a_straight_line_and_the_schedule_is_what_comes_after():
    assert rates(Constant(8, 4), 6) == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert rates(Constant(40, 0.1), 6) == rates(Constant(8, 4), 6)
    risen = rates(Cosine(14, 4), 15)
    assert risen[:4] == rates(Constant(8, 4), 4)
    assert risen[4:] == pytest.approx(rates(Cosine(10), 11))
    assert rates(Cosine(4, 4), 5) == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.001])
    assert rates(OneCycle(3, 1), 1) == [0.01]
    assert OneCycle(4, 4).factor(4) < 1e-5


def test_every_group_has_its_own_peak():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (1.0, 0.1)]
    adamw = torch.optim.AdamW(groups)
    own = Rates(adamw, Constant(4, 2))
    own.next()
    assert [group["lr"] for group in adamw.param_groups] == pytest.approx([0.5, 0.05])


# -- in the scripts --


@pytest.fixture
def place(tmp_path, monkeypatch, capsys) -> Place:
    return Place(tmp_path, monkeypatch, capsys)


@pytest.fixture
def used(monkeypatch) -> list[float]:
    """The learning rate of every update."""
    found: list[float] = []

    def step(run, *batch):
        loss = train_step(run, *batch)
        found.append(run.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(trainer, "train_step", step)
    return found


def by_hand(name: str, updates: int, warmup: int) -> list[float]:
    """The three schedules once more, as a book writes them."""
    found = []
    for k in range(updates):
        if name == "onecycle":
            top = warmup - 1
            rising = k <= top
            begin, end = (PEAK / 25, PEAK) if rising else (PEAK, PEAK / 250_000)
            share = k / top if rising else (k - top) / (updates - 1 - top)
            found.append(end + (begin - end) * (1 + math.cos(math.pi * share)) / 2)
        elif k < warmup:
            found.append(PEAK * (k + 1) / warmup)
        elif name == "cosine":
            share = (k - warmup) / (updates - warmup)
            found.append(PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2))
        else:
            found.append(PEAK)
    return found


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle"])
def test_a_schedule_counts_updates_over_epochs_and_restarts(place, used, tmp_path, name):
    """Not parts of a batch, and not those of an epoch."""
    asked = ("--schedule", name, "--warmup-steps", 3, "--epochs", 2, "--accumulate", 2)
    whole = losses(place.train(*asked))
    expected, through = by_hand(name, len(whole), 3), list(used)
    assert len(whole) >= 8
    assert through == pytest.approx(expected)
    place.saved, first = tmp_path / "parts", len(whole) // 2 + 1
    used.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "over", stops_at(first))
        parts = losses(place.train(*asked))
    parts |= losses(place.train(*asked))
    assert used == through
    assert parts == whole


def stops_at(step: int):
    """A limit that the schedule knows nothing of, as a job's end is."""

    def over(self) -> bool:
        return self.position.steps >= step

    return over


def test_by_default_nothing_is_changed(place, used):
    said = place.train("--max-steps", 3)
    assert used == [PEAK] * 3
    assert losses(place.train("--max-steps", 3, "--accumulate", 1, save=False)) == losses(said)


def test_the_schedule_ends_with_the_limit_that_comes_first(place, used):
    place.train("--schedule", "cosine", "--max-steps", 4, "--epochs", 9, save=False)
    assert used == pytest.approx(by_hand("cosine", 4, 0))


def test_one_cycle_rises_for_30_per_cent_by_default(place, used):
    place.train("--schedule", "onecycle", "--max-steps", 10, "--epochs", 2, save=False)
    assert used == pytest.approx(by_hand("onecycle", 10, 3))


def test_whoever_trains_on_is_told_where_the_rate_goes_on(place, used):
    asked = ("--schedule", "cosine", "--epochs", 2, "--max-steps")
    place.train(*asked, 4)
    said = place.train(*asked, 8)
    assert used[4:] == pytest.approx(by_hand("cosine", 8, 0)[4:])
    assert f"was one of 4 steps and is one of 8 now: it goes on at {used[4]:.2g}" in said
    assert "is one of" not in place.train(*asked, 8)


def test_a_batch_in_parts_is_the_whole_batch(place):
    whole, parts = (
        losses(place.train("--max-steps", 3, "--clip", "0.5", "--accumulate", n, save=False))
        for n in (1, 2)
    )
    assert whole == parts


def test_a_batch_in_parts_is_sent_to_others_once():
    """DDP would send its gradients after each backward pass; its hook sees what is sent."""
    sent = []

    def hook(_, bucket):
        sent.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def wrap(model):
        model = nn.parallel.DistributedDataParallel(model)
        model.register_comm_hook(None, hook)
        return model

    shape, cpu = (
        Shape(layers=1, heads=2, emb_dim=16, context=16, vocab_size=97),
        torch.device("cpu"),
    )
    ids = torch.randint(shape.vocab_size, (4, shape.context))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        counts = []
        for parts in (1, 4):
            sent.clear()
            train_step(build(Recipe(accumulation=parts), shape, cpu, wrap), ids, ids)
            counts.append(sorted(sent))
    finally:
        dist.destroy_process_group()
    assert counts[0] == counts[1] == [0]


def test_clipping_shows(place):
    """AdamW divides by the size of gradients: what is left of clipping is what differs by step."""
    plain = losses(place.train("--max-steps", 4, save=False))
    clipped = losses(place.train("--max-steps", 4, "--clip", "1e-6", save=False))
    assert plain[0] != clipped[0]


def test_other_parts_go_on_and_another_schedule_does_not(place):
    place.train("--max-steps", 2, "--accumulate", 2)
    assert losses(place.train("--max-steps", 3)).keys() == {2}
    said = place.refused("--max-steps", 4, "--schedule", "cosine")
    assert "another recipe (schedule " in said and "Constant" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-steps", 5, "--warmup-steps", 6, "--schedule", "cosine"),
         "--warmup-steps 6: longer than the training, of 5 steps; at most 5"),
        (("--batch-size", 8, "--accumulate", 3),
         "--accumulate 3: does not divide the batch of 8 windows; allowed: 1, 2, 4, 8"),
        (("--accumulate", 0), "--accumulate: 0: must be a whole number from 1 on"),
        (("--clip", 0), "--clip: 0: must be a number above 0"),
        (("--schedule", "linear"), "--schedule: invalid choice: 'linear'"),
        (("--warmup-steps", -1), "--warmup-steps: -1: must be a whole number from 0 on"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(place, options, message):
    assert message in place.refused(*options)


def test_a_batch_that_is_searched_for_is_not_cut(place):
    said = place.refused("--accumulate", 2, name="01_opt_single_gpu", batch=0)
    assert "--accumulate 2: the largest batch is searched for" in said


def test_the_rate_is_on_the_second_axis(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: figures.append(figure))
    points = [(0, 5.0, 5.1, 1e-4), (15, 4.0, 4.2, 5e-4)]
    plotting.plot_loss(points, "00_orig.py", tmp_path / "loss.png")
    plotting.plot_loss([(*point[:3], None) for point in points], "older", tmp_path / "loss.png")
    (left, right), (alone,) = (figure.axes for figure in figures)
    assert left.get_ylim()[0] > 3 and alone.get_ylim()[0] > 3
    (line,) = right.lines
    assert line.get_xydata().tolist() == [[0, 1e-4], [15, 5e-4]]
    assert right.get_ylim()[0] == 0
    assert "learning rate" in right.get_ylabel()

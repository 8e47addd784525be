"""The convergence ladder: what a run to a loss measures, and what its rungs may not change."""

import json
import math
from argparse import Namespace
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.cli import run as command
from common.engine.contract import Disturbed, NotEquivalent, NotInEffect, Numerics
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.measure import measure
from common.engine.plan import Plan
from common.engine.process import Outcome
from common.engine.settle import Unsettled
from common.gpt.shape import Shape
from common.workloads.convergence import pilot as piloting
from common.workloads.convergence import plot, session, workload
from common.workloads.convergence.curve import Point, loss_at, reached, told
from common.workloads.convergence.metrics import to_foots_end
from common.workloads.convergence.pilot import cached, pilot, read, summed_up
from common.workloads.convergence.recipe import ConvergenceRecipe
from common.workloads.convergence.session import EVALUATIONS, ConvergenceSession, tokens_of
from common.workloads.convergence.settings import Settings
from common.workloads.convergence.workload import CONVERGENCE
from common.workloads.train.build import build, parameter_groups, train_step
from common.workloads.train.muon import Muon, orthogonal
from common.workloads.train.update import Update
from ladders.convergence import LADDER
from tests.conftest import climb, fake_record

CPU = torch.device("cpu")
FACTS = DeviceFacts(type="cpu", name="A CPU", vendor="cpu", memory_gib=8.0, native_bf16=True)
SHAPE = Shape(layers=1, heads=1, emb_dim=8, context=8, vocab_size=256)
FOOT = LADDER.foot(ConvergenceRecipe(dropout=0.0, batch_size=4, learning_rate=0.01), FACTS)
SETTINGS = Settings(shape=SHAPE, tokens=4 * 8 * 48, seed=1)


def trained(recipe=FOOT, settings=SETTINGS, probe=lambda run: {}, **spoilt) -> SimpleNamespace:
    kind = type("Spoilt", (ConvergenceSession,), spoilt)
    found = measure(lambda: kind(recipe, settings, CPU), settings, probe, lambda phase: None)
    return SimpleNamespace(**found)


def at(number: int, **changes) -> ConvergenceRecipe:
    return replace(LADDER.compose(FOOT, LADDER.chain(number)), **changes)


def losses(found, *rate: float) -> list[float]:
    curve = found.tuned[str(rate[0])]["curve"] if rate else found.curve
    return [loss for _, _, loss in curve]


# -- the curve --

CURVE = [Point(0, 0.0, 5.0), Point(100, 1.0, 4.0), Point(200, 3.0, 4.5), Point(300, 4.0, 3.5)]


def test_a_target_is_reached_between_evaluations():
    assert reached(CURVE, 4.5) == Point(50, 0.5, 4.5)
    assert reached(CURVE, 4.0) == Point(100, 1.0, 4.0)
    assert reached(CURVE, 3.75) == Point(275, 3.75, 3.75)
    assert reached(CURVE, 3.4) is None
    assert reached([Point(0, 0.0, 5.0), Point(1, 1.0, math.nan)], 4.0) is None
    assert loss_at(CURVE, 250) == 4.0 and loss_at(CURVE, 300) == 3.5


def test_a_miss_is_told_as_one():
    assert told(CURVE, 1.0)["tokens_to_target"] is None
    assert told(CURVE, None)["seconds_to_target"] is None
    assert told(CURVE, 4.5)["seconds_to_target"] == 0.5
    assert told([Point(0, 0.0, 5.0), Point(1, 1.0, math.nan)], 4.0)["final_loss"] is None


# -- a run --


@pytest.fixture(scope="module")
def plain():
    return trained(settings=replace(SETTINGS, target=4.9))


def test_a_run_is_evaluated_from_its_start_to_its_end(plain):
    tokens, seconds, curve = zip(*plain.curve, strict=True)
    assert len(curve) == EVALUATIONS + 1 and len(plain.losses) == len(plain.step_s) == 48
    assert tokens == tuple(range(0, SETTINGS.tokens + 1, SETTINGS.tokens // EVALUATIONS))
    assert math.log(256) - 0.1 < curve[0] < math.log(256) + 0.5  # the warm-up has taught nothing
    assert curve[-1] == plain.final_loss < curve[0] - 0.5
    assert 0 < plain.tokens_to_target < SETTINGS.tokens
    assert seconds[0] == 0 and seconds[-1] == pytest.approx(sum(plain.step_s))
    assert 0 < plain.seconds_to_target < seconds[-1]


def test_rounds_differ_by_weights_and_order_and_rungs_do_not(plain):
    again, other = trained(), trained(settings=replace(SETTINGS, seed=2))
    assert losses(again) == losses(plain)
    assert again.losses[0] == plain.losses[0] != other.losses[0]
    assert losses(other)[0] != losses(plain)[0]
    assert trained(at(8)).losses[0] == plain.losses[0]
    assert CONVERGENCE.seeded(SETTINGS, 3).seed == 3


def test_tokens_to_the_foots_end_are_seed_by_seed():
    def record(rung: int, seed: int, *losses: float) -> dict:
        curve = [[10.0 * k, float(k), loss] for k, loss in enumerate(losses)]
        measured = {"curve": curve, "final_loss": losses[-1], "tokens_to_target": 1.0}
        facts = {"series": "ladder", "status": "ok", "measurement": measured}
        return facts | {"rung": rung, "round": seed}

    feet = [record(0, 1, 5.0, 4.0, 3.0), record(0, 2, 5.0, 4.0, 2.0)]
    same = [record(1, 1, 5.0, 3.0, 2.5), record(1, 2, 5.0, 3.0, 2.5)]
    alone = record(1, 3, 5.0, 1.0)  # a seed that the foot has not
    found = to_foots_end([*feet, *same, alone])
    assert [r["measurement"]["tokens_to_target"] for r in found] == [20.0, 20.0, 10.0, None]


def test_evaluation_is_outside_the_clock(monkeypatch):
    def slow(*arguments) -> float:
        session.time.sleep(0.02)
        return 5.0

    monkeypatch.setattr(session, "evaluate", slow)
    found = trained()
    assert sum(found.step_s) < 0.3 and min(found.step_s) > 0
    assert found.window_s < 0.3 < 0.02 * (EVALUATIONS + 1)


def test_each_learning_rate_is_a_whole_run_of_its_own(plain):
    several = trained(replace(FOOT, learning_rates=(0.001, 0.01)))
    assert losses(several, 0.01) == losses(plain)
    assert losses(several, 0.001) == losses(trained(replace(FOOT, learning_rate=0.001)))
    assert len(several.step_s) == 96
    ends = [one["curve"][-1][1] for one in several.tuned.values()]
    assert sum(ends) == pytest.approx(sum(several.step_s))


def test_tokens_are_bytes_and_none_comes_twice(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("abcdefghi" * 200)
    assert tokens_of(SimpleNamespace(content="aé")).tolist() == [97, 195, 169]
    settings = replace(SETTINGS, text=str(text), tokens=8 * 4 * 80)
    with pytest.raises(Disturbed, match="twice"):
        trained(settings=settings)


def test_a_learning_rate_that_is_not_the_schedules_voids_a_run():
    def train(self, *batch):
        self.run.rates.done += len(self.applied) == 5
        return ConvergenceSession.train(self, *batch)

    with pytest.raises(Disturbed, match="another learning rate than its schedule's"):
        trained(at(2), train=train)


# -- rungs --


def probe(number: int):
    """What the engine asks: not of a rung whose fields a later one changed again."""
    chain = LADDER.chain(number)

    def ask(run) -> dict[str, str]:
        found = {}
        for place, rung in enumerate(map(LADDER.rung, chain)):
            later = {field for n in chain[place + 1 :] for field in LADDER.rung(n).changes}
            if not later.issuperset(rung.changes):
                found[str(rung.number)] = rung.in_effect(run)
        return found

    return ask


@pytest.mark.parametrize("number", range(1, LADDER.top + 1))
def test_a_rung_acts_and_its_update_is_what_it_declares(number):
    found = trained(at(number), replace(SETTINGS, tokens=4 * 8 * 192), probe(number))
    assert str(number) in found.in_effect
    rung = LADDER.rung(number)
    below = LADDER.compose(FOOT, LADDER.chain(rung.base))
    names = (field.name for field in fields(FOOT))
    changed = {n for n in names if getattr(at(number), n) != getattr(below, n)}
    assert changed == set(rung.changes)
    against = Against(baseline=FOOT, below=below, numerics=rung.numerics)
    seen = CONVERGENCE.check(at(number), against, SETTINGS, CPU)
    assert seen.same_as_below == (rung.numerics is Numerics.EXACT)


@pytest.mark.parametrize(
    ("number", "other"), [(1, 0), (2, 1), (3, 2), (4, 0), (5, 2), (6, 5), (7, 6), (8, 5)]
)
def test_a_probe_sees_that_its_rung_is_not_there(number, other):
    with pytest.raises(NotInEffect):
        trained(at(other), SETTINGS, lambda run: {"": LADDER.rung(number).in_effect(run)})


def clip_first(self, optimizer, parameters) -> bool:
    """The mistake of pytorch/examples issue 1196: gradients are clipped while they are scaled."""
    nn.utils.clip_grad_norm_(parameters, self.clip_norm)
    self.scaler.unscale_(optimizer)
    self.scaler.step(optimizer)
    self.scaler.update()
    return True


def test_clipping_never_sees_scaled_gradients(monkeypatch):
    recipe = at(5, loss_scaling=True, clip_norm=0.01)
    against = Against(baseline=FOOT, below=at(2), numerics=Numerics.DIFFERENT_WORK)
    CONVERGENCE.check(recipe, against, SETTINGS, CPU)
    monkeypatch.setattr(Update, "apply", clip_first)
    with pytest.raises(NotEquivalent):
        CONVERGENCE.check(recipe, against, SETTINGS, CPU)


def test_four_parts_make_the_update_of_the_large_batch():
    """The weights after three updates, not only their gradients."""
    ids = torch.randint(256, (3, 16, 9), generator=torch.Generator().manual_seed(0))
    ends = []
    for parts in (4, 1):
        made = build(at(4, accumulation=parts, learning_rate=0.01), SHAPE, CPU, updates=9)
        for batch in ids:
            train_step(made, batch[:, :-1], batch[:, 1:])
        ends.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(*ends, atol=2e-5)


# -- Muon --


@pytest.mark.parametrize("size", [(8, 8), (32, 8), (8, 24), (1, 6)])
def test_an_orthogonal_matrix_keeps_directions_and_evens_sizes(size):
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    inner = (left.T @ found @ right.T).abs()
    assert torch.allclose(inner, torch.diag(inner.diag()), atol=1e-4)


def small(**more) -> tuple[nn.Parameter, nn.Parameter, Muon]:
    generator = torch.Generator().manual_seed(2)
    matrix, bias = (nn.Parameter(torch.randn(s, generator=generator)) for s in ((16, 8), (8,)))
    groups = [{"params": [bias]}, {"params": [matrix], "matrices": True}]
    return matrix, bias, Muon(groups, lr=0.01, weight_decay=0.1, **more)


def test_updates_are_as_large_as_adamws_and_others_are_adamws():
    matrix, bias, muon = small()
    alone = nn.Parameter(bias.detach().clone())
    adamw = torch.optim.AdamW([alone], lr=0.01, weight_decay=0.1)
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        matrix.grad = torch.randn(matrix.shape, generator=generator)
        bias.grad = torch.randn(bias.shape, generator=generator)
        alone.grad = bias.grad.clone()
        before = matrix.detach().clone()
        muon.step()
        adamw.step()
        moved = before * (1 - 0.01 * 0.1) - matrix.detach()
        assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)
        assert torch.equal(bias, alone)
    assert set(muon.state[matrix]) == {"momentum"}


def test_a_stored_state_goes_on_and_so_does_a_changed_rate():
    runs = [small() for _ in range(2)]
    for step in range(4):
        if step == 2:  # the second one's optimizer is made anew
            matrix, bias, muon = runs[1]
            again = Muon(
                [{"params": [bias]}, {"params": [matrix], "matrices": True}],
                lr=0.5, weight_decay=0.1,
            )  # fmt: skip
            again.load_state_dict(muon.state_dict())
            runs[1] = matrix, bias, again
        for matrix, bias, muon in runs:
            generator = torch.Generator().manual_seed(step)
            matrix.grad = torch.randn(matrix.shape, generator=generator)
            bias.grad = torch.randn(bias.shape, generator=generator)
            for group in muon.param_groups:
                group["lr"] = 0.01 / (step + 1)
            muon.step()
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_only_the_blocks_matrices_are_muons():
    model = build(FOOT, SHAPE, CPU).model
    plain, (others, matrices) = parameter_groups(model), parameter_groups(model, True)
    assert len(plain) == 1 and plain[0].keys() == {"params"}
    assert matrices["matrices"] and "matrices" not in others
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for p in matrices["params"]}
    assert found == {n for n in names.values() if n.startswith("blocks.") and "weight" in n
                     and "norm" not in n}  # fmt: skip
    assert len(others["params"]) + len(matrices["params"]) == len(names)


# -- what is settled before the climb, and by trying --

TUNED = {
    "0.001": {"tokens_to_target": None, "final_loss": 3.4,
              "curve": [[0, 0.0, 5.5], [1000, 1.0, 3.4]]},
    "0.003": {"tokens_to_target": 900.0, "final_loss": 3.2,
              "curve": [[0, 0.0, 5.5], [500, 0.5, 4.0], [1000, 1.0, 3.2]]},
    "0.01": {"tokens_to_target": None, "final_loss": None,
             "curve": [[0, 0.0, 5.5], [1000, 1.0, math.nan]]},
}  # fmt: skip
OPEN = replace(FOOT, learning_rates=(0.001, 0.003, 0.01))


def planned(**settings) -> Plan:
    return Plan(
        ladder=LADDER, baseline=OPEN, device=FACTS, numbers=(0, 1), timeout=60.0,
        settings=replace(SETTINGS, seed=0, **settings),
    )  # fmt: skip


def answer(tuned=TUNED, status: str = "ok") -> Outcome:
    return Outcome(status=status, reason="it broke", wall_s=1.0, measurement={"tuned": tuned})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    return tmp_path


def test_the_target_is_the_foots_late_loss_and_is_kept(cache):
    asked = []

    def train(job, timeout):
        asked.append(job)
        return answer()

    said = []
    found = pilot(planned(), said.append, train)
    assert found == {
        "first": 5.5,
        "final": {"0.001": 3.4, "0.003": 3.2, "0.01": None},
        "learning_rate": 0.003,
        "target": pytest.approx(3.6),
    }
    assert pilot(planned(), said.append, train) == json.loads(json.dumps(found))
    assert len(asked) == len(said) == 1 and asked[0].settings.seed == 0
    cached(planned()).write_text("{")
    assert read(cached(planned())) is None
    assert pilot(planned(), said.append, train)["learning_rate"] == 0.003
    assert cached(planned()) != cached(planned(tokens=999))


def test_a_pilot_that_fails_is_one_sentence(cache):
    with pytest.raises(UserError, match="the pilot, which trains the foot, failed: it broke"):
        pilot(planned(), print, lambda *job: answer(status="failed"))
    with pytest.raises(UserError, match="no number at any learning rate"):
        summed_up({"0.01": TUNED["0.01"]})


@pytest.mark.parametrize(
    ("target", "words"),
    [(3.1, r"--target 3.1: the pilot ends at 3.200 after 1,536 tokens; give a higher one"),
     (5.5, r"--target 5.5: the pilot begins at 5.500; give a lower one")],
)  # fmt: skip
def test_a_target_that_the_pilot_does_not_cross_is_refused(monkeypatch, target, words):
    monkeypatch.setattr(workload, "pilot", lambda *plan: summed_up(TUNED))
    with pytest.raises(UserError, match=words):
        CONVERGENCE.prepare(planned(target=target))
    settings = CONVERGENCE.prepare(planned(target=3.3)).settings
    assert (settings.target, settings.pilot["learning_rate"]) == (3.3, 0.003)
    assert CONVERGENCE.prepare(planned()).settings.target == pytest.approx(3.6)


def test_the_rate_that_is_there_first_is_taken_and_the_foots_is_the_pilots():
    plan = planned(target=3.3, pilot=summed_up(TUNED))
    trials = SimpleNamespace(attempt=lambda recipe, what: answer())
    recipe = LADDER.compose(OPEN, [1])
    closed, note = CONVERGENCE.close(recipe, plan, trials)
    assert closed == replace(recipe, learning_rate=0.003, learning_rates=())
    assert note == (
        "learning rate 0.003, of (final loss) 0.001 3.400, 0.003 3.200 (900 tokens), 0.01 no number"
    )
    lower = {"0.001": TUNED["0.001"], "0.01": TUNED["0.001"] | {"final_loss": 3.3}}
    trials = SimpleNamespace(attempt=lambda recipe, what: answer(lower))
    assert CONVERGENCE.close(recipe, plan, trials)[0].learning_rate == 0.01
    assert CONVERGENCE.close(OPEN, plan, None)[0].learning_rate == 0.003
    assert CONVERGENCE.closed_as(OPEN, closed).learning_rate == 0.003
    assert CONVERGENCE.closed_as(closed, OPEN) == closed


def test_a_rung_whose_tries_fail_is_told_why():
    plan, recipe = planned(target=3.3), LADDER.compose(OPEN, [1])
    for outcome in (answer(status="timeout"), answer({"0.01": TUNED["0.01"]})):
        trials = SimpleNamespace(attempt=lambda recipe, what, said=outcome: said)
        with pytest.raises(Unsettled) as raised:
            CONVERGENCE.close(recipe, plan, trials)
        assert raised.value.outcome.status != "ok"


# -- the command --


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rounds", "1"), "--rounds 1: a round is a seed"),
        (("--tokens", "999999999"), "--tokens 999999999: more than one pass over the text"),
        (("--tokens", "100"), "--tokens 100: fewer than 24 updates of the largest batch"),
        (("--target", "0"), "--target: 0: must be a number above 0"),
        (("--budget", "1m"), "--resolution and --budget: not for --ladder convergence"),
        (("--steps", "3"), "unrecognized arguments: --steps 3"),
    ],
)
def test_what_cannot_be_is_one_sentence(refusal, options, words):
    line = ["--ladder", "convergence", "--preset", "tiny", "--device", "cpu", *options]
    assert words in refusal(command.main, line)


def test_five_seeds_or_more_by_default():
    options = dict.fromkeys(("layers", "heads", "emb_dim", "context", "batch_size", "dropout"))
    options |= {"device": "cpu", "text": None, "rounds": None, "tokens": None, "target": None}
    for preset in ("tiny", "cpu"):
        found = CONVERGENCE.plan(Namespace(**options, preset=preset))
        assert found.rounds >= 5
        assert found.settings.shape.vocab_size == 256 and found.recipe.dropout == 0
        assert found.settings.tokens <= len(tokens_of(piloting.read_text())) * 0.9


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """The foot, cosine, and Muon, each by two seeds and one for its learning rate."""
    out = tmp_path_factory.mktemp("convergence")
    shape = ("--layers", "1", "--heads", "1", "--emb-dim", "8", "--context", "8")
    fixed = ("--preset", "tiny", "--device", "cpu", *shape, "--tokens", "6144", "--batch-size", "4")
    line = ("--ladder", "convergence", *fixed, "--only", "0,8", "--rounds", "2")
    done = climb(*line, "--json", "--out", str(out), OMP_NUM_THREADS="1")
    return out, done


def test_the_ladder_is_climbed_from_pilot_to_picture(climbed):
    out, done = climbed
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pilot: the foot" in done.stderr and "target: a held-out loss of" in done.stderr
    assert "seconds to the target, over the foot's" in done.stdout
    assert "tokens to the loss where the foot ended" in done.stdout
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(r["rung"], r["round"]) for r in records] == [(0, 1), (8, 1), (8, 2), (0, 2)]
    first, muon = records[:2]
    assert first["note"].startswith("learning rate ") and "final loss" in muon["note"]
    assert muon["recipe"]["learning_rates"] == [] and muon["applied"] == [1, 2, 5, 8]
    assert muon["equivalence"]["same_as_below"]
    starts = {r["round"]: r["measurement"]["curve"][0][2] for r in records}
    for record in records:
        assert record["measurement"]["curve"][0][2] == starts[record["round"]]
    assert starts[1] != starts[2]
    assert {path.name for path in out.iterdir()} >= {"convergence.png", "ladder.png", "ladder.csv"}
    assert "target" in (out / "ladder.md").read_text()


def made_up(values: dict[int, list[float]]) -> list[dict]:
    """Records whose curves fall in a straight line, and are there after so many tokens."""
    records = []
    for rung, of_rung in values.items():
        for turn, slope in enumerate(of_rung, start=1):
            record = fake_record(rung, turn, 1.0, ladder="ladders.convergence")
            curve = [Point(t, t / 100, 5.5 - slope * t) for t in range(0, 1001, 100)]
            record["measurement"] |= told(curve, 4.0)
            record["settings"] |= {"target": 4.0, "tokens": 1000, "seed": 0}
            record["settings"] |= {"pilot": summed_up(TUNED)}
            record["recipe"] = record["recipe"] | {"learning_rate": 0.003}
            records.append(record)
    return records


def test_the_picture_has_every_rung_twice_and_the_target():
    records = made_up({0: [0.0016, 0.0018, 0.0017], 1: [0.003, 0.0031, 0.0032]})
    figure = plot.curves_figure(records)
    left, right, keys = figure.axes
    for axes, x in ((left, 1000), (right, 10)):
        *curves, target = axes.lines
        assert len(curves) == 2 and set(target.get_ydata()) == {4.0}
        assert curves[0].get_xdata()[-1] == x
        assert curves[0].get_ydata()[-1] == pytest.approx(5.5 - 1.7)
        assert len(axes.collections) == 2  # bands
    assert [text.get_text() for text in keys.texts] == ["0 baseline", "1 rung 1"]
    assert "484" in figure._suptitle.get_text().replace("\n", " ")
    assert plot.title({}) == "No rung was measured"


def test_seconds_are_judged_beside_tokens_and_misses_are_told():
    records = made_up({0: [0.0014, 0.0018, 0.0017], 1: [0.003, 0.0031, 0.0032]})
    text = CONVERGENCE.extra_text(records, False)
    assert "rung 1" in text and "inf)" in text and "faster" in text
    notes = CONVERGENCE.notes(records)
    assert "3 seeds" in notes and "target 4.000 nats" in notes and "0.01: no number" in notes


def test_runs_of_other_targets_are_not_compared():
    a, b = made_up({0: [0.002]}), made_up({0: [0.002]})
    assert CONVERGENCE.unlike(a[0], b[0]) == ""
    b[0]["settings"]["target"] = 3.9
    assert "different targets, 4.0000 and 3.9000" in CONVERGENCE.unlike(a[0], b[0])

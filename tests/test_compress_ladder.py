"""The compress ladder: what runs is what the file holds, and each planted fault is found."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from common.cli import run as command
from common.engine.contract import Disturbed, NotEquivalent, NotInEffect, Numerics
from common.engine.job import Against
from common.engine.measure import measure
from common.gpt.shape import Shape
from common.workloads.compress import base as bases
from common.workloads.compress import compressing
from common.workloads.compress import model as models
from common.workloads.compress import parts as pieces
from common.workloads.compress import session as sessions
from common.workloads.compress.base import base_for
from common.workloads.compress.check import SHAPE, check
from common.workloads.compress.compressing import compressed
from common.workloads.compress.integers import Int8Both
from common.workloads.compress.metrics import METRICS
from common.workloads.compress.model import decode
from common.workloads.compress.parts import parts_of
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.session import CompressSession
from common.workloads.compress.settings import Settings
from common.workloads.compress.show_sensitivity import main as show_sensitivity
from common.workloads.train.recipe import recognized
from ladders.compress import LADDER
from ladders.compress.step02_int8_per_tensor import PerTensor
from ladders.compress.step04_int8_per_channel import PerChannel
from ladders.compress.step05_int4_in_groups import Int4
from ladders.compress.step07_smoothquant import Smoothed
from ladders.compress.step11_mixed_precision import FORMATS
from tests.conftest import climb, width

CPU = torch.device("cpu")
PLAIN = CompressRecipe()
TINY = Shape(layers=1, heads=2, emb_dim=32, context=32)
SETTINGS = Settings(
    shape=TINY, prompt_tokens=9, new_tokens=5, steps=2, base_steps=40, windows=4, tune_steps=2
)
COLUMNS = {metric.name: metric for metric in METRICS}
ON_CPUS = range(LADDER.top)  # 2:4 is for GPUs


def recipe_at(number: int, **changes) -> CompressRecipe:
    return replace(LADDER.compose(PLAIN, LADDER.chain(number)), **changes)


def checked(recipe: CompressRecipe, number: int):
    below = recipe_at(LADDER.rung(number).base) if number else PLAIN
    against = Against(baseline=PLAIN, below=below, numerics=LADDER.numerics(number))
    return check(recipe, against, SETTINGS, CPU)


def taken(recipe: CompressRecipe, probe=lambda run: {}, **spoilt):
    """The measurement of a recipe, in this process; `spoilt`: methods put in place."""
    kind = type("Spoilt", (CompressSession,), spoilt)
    return measure(lambda: kind(recipe, SETTINGS, CPU), SETTINGS, probe, lambda phase: None)


def seen_by(number: int, recipe: CompressRecipe) -> str:
    """What the rung's probe sees of a session of the recipe."""
    session = CompressSession(recipe, SETTINGS, CPU)
    session.look()
    return LADDER.rung(number).in_effect(session.probed)


# -- the check --


@pytest.mark.parametrize("number", ON_CPUS)
def test_a_rung_runs_what_its_file_defines(number):
    found = checked(recipe_at(number), number)
    assert found.error < found.limit / 3
    assert (found.rounding_error > 1e-2) == (number > 1)  # these weights are bfloat16's


class ForgetsTheBias(PerChannel):
    def forward(self, x):
        return self.multiply(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class MeanScale(PerChannel):
    """One scale for all outputs where each has its own."""

    def __init__(self, *given, **uses):
        super().__init__(*given, **uses)
        self.scales = torch.full_like(self.scales, self.scales.mean())


class OtherRows(PerChannel):
    """The embedding's rows are read without their scales."""

    def rows(self, ids):
        return self.codes[ids].to(self.dtype) * self.scales.mean()


class OtherGroups(Int4):
    def __init__(self, *given, **uses):
        super().__init__(*given, **uses)
        self.both = self.both.roll(1, dims=0)


class NeverCut(Int8Both):
    """Activations are rounded to another scale than the products are divided by."""

    fit = PerChannel.fit

    def forward(self, x):
        self.input_scale = self.input_scale * 1.5
        return super().forward(x)


class TooCoarse(PerTensor):
    """The scale is of one weight only: the others are cut."""

    @classmethod
    def fit(cls, weight, recipe):
        return replace(super().fit(weight, recipe), most=2, least=-2)


class ScalesOnce(Smoothed):
    """The weights are scaled, and what they read is not."""

    @staticmethod
    def scaled(parts, inputs, recipe):
        found = Smoothed.scaled(parts, inputs, recipe)
        return replace(found, plain=parts.plain)


FAULTS = {
    ForgetsTheBias: (4, "format"),
    MeanScale: (4, "format"),
    OtherRows: (4, "format"),
    OtherGroups: (5, "format"),
    NeverCut: (6, "format"),
    TooCoarse: (2, "format"),
    ScalesOnce: (7, "scaling"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_found(fault, monkeypatch):
    own = {f"{kind.__module__}.{kind.__name__}": kind for kind in FAULTS}
    monkeypatch.setattr(models, "recognized", lambda name: own.get(name) or recognized(name))
    number, field = FAULTS[fault]
    with pytest.raises(NotEquivalent):
        checked(recipe_at(number, **{field: fault}), number)


def test_a_model_rebuilt_otherwise_than_masked_is_found(monkeypatch):
    whole = pieces.Parts.without

    def wrongly(self, kept):
        found = whole(self, kept)
        name = "blocks.0.contract"
        return replace(found, matrices=found.matrices | {name: found.matrices[name].roll(1, 1)})

    monkeypatch.setattr(pieces.Parts, "without", wrongly)
    with pytest.raises(NotEquivalent, match="those of the model with masks"):
        checked(recipe_at(13), 13)


def test_what_a_rung_does_not_declare_is_found():
    against = Against(baseline=PLAIN, below=PLAIN, numerics=Numerics.EXACT)
    with pytest.raises(NotEquivalent, match="declared exact"):
        check(recipe_at(4), against, SETTINGS, CPU)
    against = replace(against, numerics=Numerics.ROUNDING)
    with pytest.raises(NotEquivalent, match="the uncompressed model's"):
        check(recipe_at(12), against, SETTINGS, CPU)


@pytest.mark.parametrize("number", range(LADDER.top + 1))
def test_a_recipe_comes_back_from_its_record(number):
    recipe = recipe_at(number)
    values = json.loads(json.dumps(recipe.to_json()))
    assert CompressRecipe.from_record(values) == CompressRecipe.from_json(values) == recipe
    for name in ("os.system", "torch.hub.load", "tests.spy.Spy"):
        with pytest.raises(ValueError, match="is no type of this project"):
            CompressRecipe.from_record(values | {"rounding": name})


# -- a session --


@pytest.fixture(scope="session")
def trained_base():
    """The base that the sessions of these tests share, from the cache."""
    return base_for(SETTINGS)


def test_the_base_model_is_trained_once_and_kept(trained_base, monkeypatch):
    monkeypatch.setattr(bases, "train_base", None)  # it must not be called
    again = base_for(SETTINGS)
    assert all(torch.equal(again.state[name], p) for name, p in trained_base.state.items())
    assert torch.equal(again.state["head.weight"], again.state["token_embedding.weight"])
    assert not torch.equal(again.early["head.weight"], again.state["head.weight"])


def test_bytes_and_losses_are_measured(trained_base):
    plain, found = taken(PLAIN), taken(recipe_at(4))
    vocabulary, wide = TINY.vocab_size, TINY.emb_dim
    matrices = vocabulary * wide + 12 * wide**2
    others = (TINY.context + 2) * wide + 10 * wide
    header = plain["file_bytes"] - 4 * (matrices + others)
    assert 8 < header < 3000
    assert found["bits_per_weight"] == pytest.approx(8 + 16 * (vocabulary + 9 * wide) / matrices)
    assert plain["bits_per_weight"] == 32
    assert plain["quality"]["delta"] == plain["quality"]["kl"] == 0
    assert plain["quality"]["same_top"] == 1
    assert plain["quality"]["loss"] < math.log(vocabulary) - 2
    assert 0 < found["quality"]["kl"] < 0.1
    assert found["quality"]["delta_low"] < found["quality"]["delta"]
    assert plain["resident_bytes"] == 4 * (matrices + others)
    assert found["resident_bytes"] < 0.4 * plain["resident_bytes"]
    assert found["quality"]["bits_per_byte"] < found["quality"]["loss"]


def test_a_tied_embedding_in_int4_has_a_second_copy_in_memory(trained_base):
    model = compressed(trained_base, recipe_at(5), SETTINGS).model(torch.bfloat16, CPU)
    codes = TINY.vocab_size * TINY.emb_dim / 2
    assert model.embedding.table.nbytes == codes
    assert model.resident_bytes > 2 * codes + model.embedding.both.nbytes
    assert model.blocks[0].qkv.table is None


def test_what_took_long_is_kept_and_what_is_damaged_is_made_again(
    trained_base, monkeypatch, tmp_path
):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    monkeypatch.setattr(compressing, "KEEP_S", 0.0)
    first = compressed(trained_base, recipe_at(2), SETTINGS)
    (path,) = tmp_path.glob("compressed-*.safetensors")
    monkeypatch.setattr(compressing, "made", None)
    assert compressed(trained_base, recipe_at(2), SETTINGS).told == first.told
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TypeError):  # it would be made again
        compressed(trained_base, recipe_at(2), SETTINGS)
    with pytest.raises(TypeError):  # another one
        compressed(trained_base, recipe_at(4), SETTINGS)


def test_a_session_that_says_something_else_each_time_is_void(trained_base):
    def wandering(session):
        session.run.model.final_norm.bias += torch.randn(TINY.emb_dim)
        CompressSession.step(session)

    with pytest.raises(Disturbed, match=r"of 4 steps decoded other tokens|last step's logits"):
        taken(recipe_at(1), step=wandering)


def test_a_slow_prompt_moves_no_step(trained_base, monkeypatch):
    found = taken(recipe_at(4))
    assert found["tokens_per_step"] == 5
    assert max(found["step_s"]) < 1
    assert 0 < found["prefill_s"] < 1
    model = compressed(trained_base, recipe_at(4), SETTINGS).model(torch.bfloat16, CPU)
    cache = sessions.Cache(model, 1, 14)
    begun = model(torch.arange(9)[None], cache, last=1).argmax(-1)
    assert decode(model, cache, begun, 5)[0].shape == (1, 5)
    assert cache.length == 14


@pytest.mark.parametrize("number", [n for n in ON_CPUS if n])
def test_a_rung_that_acts_is_seen(trained_base, number):
    assert seen_by(number, recipe_at(number))


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (1, {"dtype": torch.float32}, "the file holds torch.float32"),
        (2, {"format": PerChannel}, "scales"),
        (3, {"format": PerChannel}, "0 of 5 matrices have a zero point"),
        (4, {"format": PerTensor}, "fewer scales than outputs"),
        (5, {"format": PerChannel}, "matrices are in int8 per channel"),
        (6, {"format": PerChannel}, "0 matrices have a scale for their inputs"),
        (7, {"scaling": PLAIN.scaling}, "no matrix was scaled"),
        (8, {"rounding": PLAIN.rounding}, "chosen otherwise"),
        (9, {"scaling": PLAIN.scaling}, "no matrix was scaled"),
        (10, {"training": PLAIN.training}, "nothing was rounded"),
        (12, {"format": PLAIN.format}, "0.00% of the weights are zeros"),
        (13, {"pruning": PLAIN.pruning}, "no head and no neuron was taken out"),
        (14, {"scores": PLAIN.scores}, "chosen otherwise"),
        (15, {"training": PLAIN.training}, "nothing was trained again"),
    ],
)
def test_a_rung_that_does_not_act_is_not_in_effect(trained_base, number, changes, said):
    with pytest.raises(NotInEffect, match=said):
        seen_by(number, recipe_at(number, **changes))


class Silent(PerChannel):
    """Dequantises, and says nothing."""

    def multiply(self, rows):
        return rows @ (self.codes.to(rows.dtype) * self.scales[:, None]).T


def test_a_kernel_that_falls_back_is_not_in_effect(trained_base, monkeypatch):
    monkeypatch.setattr(models, "recognized", lambda name: Silent)
    with pytest.raises(NotInEffect, match="0 of 25 products took the int8 kernel"):
        seen_by(4, recipe_at(4, format=Silent))


# -- measured --


@pytest.fixture(scope="session")
def compress_ladder(trained_base, tmp_path_factory):
    """Some rungs at a tiny shape, measured once."""
    out = tmp_path_factory.mktemp("compress-ladder")
    shape = ("--layers", "1", "--emb-dim", "32", "--context", "32", "--base-steps", "40")
    few = ("--windows", "4", "--tune-steps", "2", "--prompt-tokens", "9", "--new-tokens", "5")
    start = ("--ladder", "compress", "--preset", "tiny", *shape, *few)
    return out, climb(*start, "--only", "0,5,13,16", "--json", "--out", str(out))


def test_rungs_are_measured(compress_ladder):
    out, done = compress_ladder
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(out / "ladder.csv")
    assert table.status.tolist() == ["ok"] * 3 + ["skipped"]
    assert "NVIDIA" in table.reason[3]
    ok = table[table.status == "ok"]
    assert {"file_bytes", "held_out_loss", "delta_loss", "decode_tok_per_s"} <= {*table}
    assert {"prefill_tok_per_s", "bits_per_weight", "resident_bytes", "kl"} <= {*table}
    assert {"same_top", "bits_per_byte", "compress_s", "control_loss"} <= {*table}
    assert ok.file_bytes.tolist()[0] == ok.file_bytes.max()
    assert ok.file_bytes.tolist()[1] == ok.file_bytes.min()
    assert ok.x_base.tolist()[1] == pytest.approx(32 / 5, rel=0.02)
    assert ok.delta_loss.tolist()[0] == 0
    assert ok.control_loss.notna().tolist() == [False, False, True]
    assert (ok.decode_tok_per_s > 0).all()
    assert width(done.stdout) <= 80
    assert "random heads and neurons" in done.stdout


def test_the_picture_of_bytes_and_losses_is_drawn(compress_ladder):
    out, done = compress_ladder
    assert (out / "pareto.png").stat().st_size > 10_000
    assert json.loads(done.stdout.splitlines()[-1])["pareto"] == str(out / "pareto.png")
    page = (out / "ladder.md").read_text()
    assert "Losses: over 4 held-out windows" in page
    assert "a base model, trained for 40 steps" in page


def test_sensitivities_are_shown(trained_base, tmp_path, capsys):
    given = ["--preset", "tiny", "--layers", "1", "--emb-dim", "32", "--context", "32"]
    given += ["--base-steps", "40", "--out", str(tmp_path / "s.png")]
    assert show_sensitivity(FORMATS, given) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in parts_of(trained_base.state, 2).matrices)
    assert "int4" in said.splitlines()[0]
    assert (tmp_path / "s.png").stat().st_size > 10_000


# -- mistakes --


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bits", "9"), "--bits: 9: must be 2, 3, or 4"),
        (("--group", "48"), "--group: 48: must be 32, 64, or 128"),
        (("--group", "64"), "--group 64: does not divide the width of 32"),
        (("--new-tokens", "60"), "--new-tokens 60: with a prompt of 32"),
        (("--weights", "/nowhere"), "--weights /nowhere: no such file"),
        (("--weights", "/nowhere", "--base-steps", "30"), "--base-steps: without --weights"),
        (("--calibration", "/nowhere"), "--calibration /nowhere: no such file"),
        (("--windows", "1"), "must be a whole number from 2 on"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, options, said):
    start = ["--ladder", "compress", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, *options])


def test_a_budget_that_nothing_fits_is_a_sentence(trained_base, refusal, tmp_path):
    start = ["--ladder", "compress", "--preset", "tiny", "--layers", "1", "--context", "32"]
    start += ["--base-steps", "40", "--out", str(tmp_path), "--budget-bytes", "1000"]
    said = refusal(command.main, start)
    assert "--budget-bytes 1,000: nothing fits; the smallest mix of formats takes" in said


def test_weights_of_another_shape_are_a_sentence(trained_base, refusal, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(trained_base.state, path)
    start = ["--ladder", "compress", "--preset", "tiny", "--weights", str(path)]
    assert "weights of another shape" in refusal(command.main, [*start, "--out", str(tmp_path)])
    found = base_for(replace(SETTINGS, weights=str(path)))
    assert found.early is None
    assert torch.equal(found.state["head.weight"], trained_base.state["head.weight"])


# -- what is shown --


def test_columns_read_the_record():
    measured = {
        "step_s": [0.5, 0.4, 0.6],
        "tokens_per_step": 32,
        "prefill_s": 0.25,
        "controls": {"a": {"loss": 4.5}, "b": {"loss": 4.25}},
        "told": {"compress_s": 3.0},
        "quality": {"loss": 4.0, "delta": 0.01},
    }
    record = {"measurement": measured, "settings": {"prompt_tokens": 96}}
    values = {"decode_tok_per_s": 64, "prefill_tok_per_s": 384, "control_loss": 4.25}
    values |= {"compress_s": 3.0, "held_out_loss": 4.0, "predicted_delta": None}
    assert {name: COLUMNS[name].of(record) for name in values} == values
    measured["controls"] = {}
    assert COLUMNS["control_loss"].of(record) is None
    assert COLUMNS["delta_loss"].text(0.01) == "+0.0100"


def test_the_shape_of_the_check_is_divided_by_every_group():
    assert SHAPE.emb_dim % 128 == 0

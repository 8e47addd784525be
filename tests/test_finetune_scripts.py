"""`01 --finetune METHOD`: a base of a file, adapted to a text, saved as parts or merged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.gpt.shape import Shape
from common.scripts import script
from common.workloads.finetune.build import digest
from common.workloads.finetune.files import metadata, read_parts
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.generate.base import read_weights
from common.workloads.train.recipe import Recipe
from ladders.finetune import LADDER, METHODS

TOP = __import__("01_opt_single_gpu")
RECIPE = replace(Recipe(), batch_size=2)
SHAPE = Shape(layers=1, heads=2, emb_dim=32, context=32)
TINY = ("--preset", "tiny", "--device", "cpu", "--layers", "1", "--context", "32", "--max-steps")


@pytest.fixture
def train(monkeypatch, tmp_path, capsys):
    """Call the script here, uncompiled: gives what it said."""

    def call(*line: str) -> str:
        curve = ("--plot", str(tmp_path / "loss.png"))
        monkeypatch.setattr("sys.argv", ["01_opt_single_gpu.py", *TINY, *line, *curve])
        script.main(RECIPE, "the top", methods=METHODS)
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "sea.txt"
    path.write_text("".join(f"{n} a ship sails on the sea, said {n * n}. " for n in range(200)))
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An untrained base: what matters is which it is."""
    from common.workloads.generate.base import untrained

    path = tmp_path_factory.mktemp("base") / "base.pt"
    torch.save(untrained(SHAPE).state, path)
    return path


def test_the_top_offers_every_method():
    assert TOP.METHODS is METHODS
    assert set(METHODS) == {
        *("full", "adapter", "lora-qv", "lora", "prefix", "prompt", "dora", "qlora")
    }


def test_parts_are_saved_and_gone_on_with_and_merged(train, base, text, tmp_path):
    parts, merged = tmp_path / "sea.safetensors", tmp_path / "sea.pt"
    line = ("8", "--weights", str(base), "--finetune", "lora", "--text", text, "--rank", "4")
    said = train(*line, "--save", str(parts))
    assert "lora: 2,304 of " in said
    train(*line, "--merge", "--save", str(merged))
    state = read_weights(base, SHAPE)
    assert metadata(parts)["base_sha256"] == digest(state)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4
    recipe = METHODS["lora"](FinetuneRecipe(rank=4))
    found, whole = read_parts(parts, recipe, digest(state)), read_weights(merged, SHAPE)
    for name, weight in state.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_B" in found:
            weight = weight + 4.0 * found[f"{layer}.lora_B"] @ found[f"{layer}.lora_A"]
            assert not torch.equal(whole[name], state[name])
        assert torch.allclose(whole[name], weight, atol=1e-6), name
    first = float(said.split("Val: ")[1].split(",")[0])
    on = train(*line, "--parts", str(parts))
    assert float(on.split("Val: ")[1].split(",")[0]) < first


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(train, base, text, method, tmp_path):
    path = tmp_path / ("whole.pt" if method == "full" else "parts.safetensors")
    line = ("--weights", str(base), "--finetune", method, "--text", text)
    said = train("10", *line, "--eval-every", "9", "--save", str(path))
    losses = [float(part.split(",")[0]) for part in said.split("Train: ")[1:]]
    assert losses[-1] < losses[0]
    assert path.exists()
    if method == "full":
        assert not torch.equal(
            read_weights(path, SHAPE)["head.weight"], read_weights(base, SHAPE)["head.weight"]
        )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--finetune", "lora"), "--finetune lora: --weights FILE is needed, the base"),
        (("--merge",), "--merge: only with --finetune full|adapter|"),
        (("--weights", "a.pt"), "--weights: only with --finetune"),
        (("--rank", "0"), "--rank: only with --finetune"),
        (("--finetune", "lora", "--weights", "BASE", "--rank", "0"), "--rank 0: must be from 1 to"),
        (("--finetune", "lora", "--weights", "BASE", "--rank", "33"), "the model's width, 32"),
        (
            ("--finetune", "lora", "--weights", "BASE", "--targets", "c_attn"),
            "--targets c_attn: no layer of the model; allowed: W_query,",
        ),
        (("--finetune", "lora", "--weights", "no.pt"), "--weights no.pt: no such file"),
        (("--finetune", "lora", "--weights", "BASE", "--load", "a.pt"), "--load: not with --fine"),
        (("--finetune", "lora", "--weights", "BASE", "--save", "a.pt"), "must end in .safetensors"),
        (("--finetune", "prompt", "--weights", "BASE", "--merge"), "--merge: nothing in the model"),
        (("--finetune", "lora", "--weights", "BASE", "--parts", "no"), "--parts no: no such file"),
        (("--finetune", "full", "--weights", "BASE", "--save", "BASE"), "--weights names it, too"),
    ],
)
def test_bad_input_is_one_sentence(refusal, monkeypatch, base, text, line, words):
    line = [str(base) if part == "BASE" else part for part in line]
    monkeypatch.setattr("sys.argv", ["01_opt_single_gpu.py", *TINY, "3", "--text", text, *line])

    def main():
        script.main(RECIPE, "the top", methods=METHODS)

    assert words in refusal(main)


def test_parts_of_another_base_are_one_sentence(train, base, text, tmp_path, refusal):
    parts, other = tmp_path / "sea.safetensors", tmp_path / "other.pt"
    line = ("3", "--finetune", "lora", "--text", text)
    train(*line, "--weights", str(base), "--save", str(parts))
    state = torch.load(base)
    state["head.weight"][0, 0] += 1
    torch.save(state, other)
    again = (*line, "--weights", str(other), "--parts", str(parts))
    assert "made for the base " in refusal(train, *again)


def test_methods_keep_what_the_script_chose():
    own = FinetuneRecipe.of(replace(Recipe(), vocab_multiple=64, dtype=torch.bfloat16))
    found = METHODS["dora"](own)
    assert (found.vocab_multiple, found.dtype) == (64, torch.bfloat16)
    assert found.targets == LADDER.compose(FinetuneRecipe(), [1, 4]).targets

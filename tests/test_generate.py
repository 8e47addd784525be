"""python -m common.gpt.generate: streams text, and says how fast."""

import os
import subprocess
import sys

import pytest
import torch

from common.accelerator import device
from common.cli import generate
from common.gpt.text import END_OF_TEXT, encode, tokenizer
from common.workloads.generate.base import weights_for
from common.workloads.generate.model import decode, likeliest
from common.workloads.generate.session import build
from common.workloads.generate.settings import Settings
from common.workloads.train.presets import PRESETS
from ladders.inference.step04_sdpa import WideAttention
from tests.conftest import PROJECT, bfloat16_emulated, not_on_this_cpu
from tests.test_inference import CPU, LADDER, NAIVE, gpt, recipe_at

SMALL = ("--preset", "tiny", "--base-steps", "2")
PROMPT = "Every effort moves"
SHAPE = PRESETS["tiny"].shape


@pytest.fixture
def said(capsys):
    """What the command writes: its status, the text, and the lines beside it."""

    def call(*arguments: str) -> tuple[int, str, list[str]]:
        with bfloat16_emulated():
            status = generate.main([*SMALL, *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err.splitlines()

    return call


def greedy(count: int) -> str:
    """The text as rung 7 decodes it."""
    ids = encode(PROMPT)
    state = weights_for(Settings(shape=SHAPE, base_steps=2)).state
    recipe = recipe_at(7, attention=WideAttention)
    model, cache = build(recipe, SHAPE, state, len(ids) + count, CPU)
    first = likeliest(model(torch.tensor([ids]), cache))
    tokens = decode(model, cache, first, count - 1)[0]
    return PROMPT + tokenizer().decode([first.item(), *tokens[0].tolist()])


def test_text_is_streamed_and_figures_are_told(said):
    status, text, lines = said("--prompt", PROMPT, "--max-new-tokens", "9")
    assert status == 0
    assert text == greedy(9) + "\n"
    assert lines[-2].startswith("a base model, trained for 2 steps")
    assert lines[-2].endswith("as rung 7, int4 weights in groups")
    found = dict(zip(*[iter(lines[-1].split())] * 2, strict=True))
    assert [*found] == ["ttft_ms", "ms_per_token", "tok_per_s", "cache_bytes", "weight_bytes"]
    assert all(float(value.replace(",", "")) > 0 for value in found.values())
    tokens = len(encode(PROMPT)) + 9
    assert found["cache_bytes"] == f"{2 * SHAPE.layers * tokens * SHAPE.emb_dim * 2:,}"


def test_worked_example_of_figures():
    class Of:
        nbytes, weight_bytes = 4096, 1_000_000

    assert generate.figures([1.0, 1.25, 1.5, 1.75], Of, Of) == (
        "ttft_ms 250.0  ms_per_token 250.00  tok_per_s 4  cache_bytes 4,096  weight_bytes 1,000,000"
    )
    assert generate.figures([1.0, 1.25], Of, Of) == (
        "ttft_ms 250.0  cache_bytes 4,096  weight_bytes 1,000,000"
    )


def test_a_seed_is_a_text(said):
    drawn = ("--prompt", PROMPT, "--max-new-tokens", "12", "--temperature", "1.5")
    texts = [said(*drawn, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    likeliest_only = said(*drawn, "--top-k", "1")[1]
    assert likeliest_only == greedy(12) + "\n"


def test_without_a_prompt_text_begins_anew_and_fills_the_context(said, monkeypatch):
    begun = []
    answer = generate.answer
    monkeypatch.setattr(
        generate,
        "answer",
        lambda model, cache, ids, *more: begun.append(ids) or answer(model, cache, ids, *more),
    )
    status, text, lines = said()
    assert status == 0
    assert begun == [[END_OF_TEXT]]
    assert f"cache_bytes {2 * SHAPE.layers * SHAPE.context * SHAPE.emb_dim * 2:,} " in lines[-1]


def test_a_letter_of_many_tokens_is_written_whole(said, monkeypatch):
    tokens = encode("語🙂")
    assert len(tokens) > 3
    monkeypatch.setattr(generate, "answer", lambda *given: iter([*tokens, tokens[0]]))
    _, text, _ = said("--prompt", "日本")
    assert text == "日本語🙂\ufffd\n"


def test_the_texts_own_end_ends_it(said, monkeypatch):
    class Picks:
        tokens = [262, END_OF_TEXT, 262]

        def pick(self, logits):
            return self.tokens.pop(0), None

    monkeypatch.setattr(generate, "sampler_for", lambda *given: Picks())
    assert said("--prompt", PROMPT)[1] == f"{PROMPT} the\n"


def test_ctrl_c_ends_it_in_a_line(said, monkeypatch):
    class Interrupts:
        left = 3

        def pick(self, logits):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return 262, None

    monkeypatch.setattr(generate, "sampler_for", lambda *given: Interrupts())
    status, text, lines = said("--prompt", PROMPT)
    assert status == 130
    assert text == f"{PROMPT} the the"
    assert lines[-2:] == ["", "interrupted"]


def test_a_width_without_groups_takes_the_rung_below(said):
    status, _, lines = said("--emb-dim", "40", "--max-new-tokens", "2", "--base-steps", "0")
    assert status == 0
    assert "as rung 6, int8 weights" in lines[-2]


def test_a_cpu_without_bfloat16_takes_what_it_has(capsys, monkeypatch):
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)
    assert generate.main([*SMALL, "--prompt", PROMPT, "--max-new-tokens", "2"]) == 0
    assert "as rung 4, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--prompt", "word " * 64), "--prompt: 65 tokens leave no room for an answer in the"),
        (("--prompt", "word", "--max-new-tokens", "64"), "--max-new-tokens 64: with a prompt of 1"),
        (("--temperature", "-1"), "--temperature: -1: must be a number from 0 on"),
        (("--temperature", "warm"), "--temperature: warm: must be a number from 0 on"),
        (("--top-k", "0"), "--top-k: 0: must be a whole number from 1 on"),
        (("--weights", "/nowhere"), "--base-steps: without --weights"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, options, told):
    assert told in refusal(generate.main, [*SMALL, *options])


def test_weights_of_another_shape_are_a_sentence(refusal, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(gpt().state_dict(), path)
    said = refusal(generate.main, ["--preset", "tiny", "--weights", str(path)])
    assert "weights of another shape: token_embedding.weight is 1009 x 128" in said


def test_a_reader_who_has_enough_ends_it_quietly():
    """The command's own door, into a pipe that nobody reads."""
    command = [sys.executable, "-m", "common.gpt.generate", *SMALL, "--prompt", PROMPT]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=PROJECT, env=os.environ, text=True, **pipes) as started:
        started.stdout.close()
        told = started.stderr.read()
    assert started.returncode == 0, told
    assert "Traceback" not in told
    absent = not_on_this_cpu(LADDER, NAIVE)
    assert f"as rung {max({1, 2, 4, 5, 6, 7} - absent)}, " in told

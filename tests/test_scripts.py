"""The three scripts are the ladder's foot, its top, and its top on many devices."""

import difflib
import importlib
import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.accelerator.device import describe
from common.scripts import script, trainer
from common.workloads.train.recipe import Recipe
from steps import LADDER
from tests.conftest import PROJECT, run

FOOT, TOP, MANY = "00_orig", "01_opt_single_gpu", "02_opt_multi_gpu_ddp"
TINY = ("--preset", "tiny", "--device", "cpu", "--max-steps", "20")
LINE = re.compile(
    r"Ep 1, Step 0000(\d\d), Train: (\d+\.\d{3}), Val: (\d+\.\d{3}), "
    r"Step tok/sec: (\d+), Avg tok/sec: (\d+)(, Per device: \d+)?$"
)


def recipe_of(script: str) -> Recipe:
    return importlib.import_module(script).RECIPE


def changed_lines(before: str, after: str) -> list[str]:
    texts = [(PROJECT / f"{name}.py").read_text().splitlines() for name in (before, after)]
    return [line for line in difflib.ndiff(*texts) if line.startswith("+ ")]


def test_foot_and_top_are_the_ladders():
    top = LADDER.compose(Recipe(), range(1, LADDER.top + 1))
    wanted = {FOOT: Recipe(), TOP: top, MANY: top}
    told = {f"{name}.py": to_change(recipe_of(name), recipe) for name, recipe in wanted.items()}
    assert not any(told.values()), "\n".join(f"{k}: {v}" for k, v in told.items() if v)


def to_change(found: Recipe, wanted: Recipe) -> str:
    """What to write into a script's RECIPE, so that it is the wanted one; empty: nothing."""
    ours, others, plain = found.to_json(), wanted.to_json(), Recipe().to_json()
    changed = [name for name in ours if ours[name] != others[name]]
    add = [f"add {k}={others[k]}" for k in changed if ours[k] == plain[k]]
    rest = [f"make it {k}={others[k]}" for k in changed if ours[k] != plain[k]]
    return "; ".join(add + rest)


def test_what_a_script_lacks_is_named_with_its_value():
    found = Recipe(vocab_multiple=64)
    said = to_change(found, replace(found, weight_decay=0.2, vocab_multiple=128))
    assert said == "add weight_decay=0.2; make it vocab_multiple=128"
    assert to_change(found, found) == ""


def test_the_scripts_differ_by_one_idea_a_step_and_then_by_distribution():
    assert len(changed_lines(FOOT, TOP)) <= 2 * LADDER.top  # a field, perhaps an import
    assert len(changed_lines(TOP, MANY)) <= 3


def check_output(stdout: str) -> list[re.Match]:
    lines = stdout.splitlines()
    assert lines[0].startswith("PyTorch version: 2.")
    assert lines[1] == "Using cpu"
    assert lines[2] == ""
    rows = [match for line in lines if (match := LINE.match(line))]
    assert [row[1] for row in rows] == ["00", "15", "19"]
    assert rows[0][5] == "0"  # the first step, which may compile, is in no average
    assert int(rows[1][5]) > 0
    assert float(rows[-1][3]) < float(rows[0][3])
    assert any(line.startswith("Every effort moves you") for line in lines)
    assert any("of the time went to waiting for data" in line for line in lines)
    assert re.match(r"Allocated memory: \d+\.\d{4} GB", lines[-2])
    assert re.match(r"Reserved memory: \d+\.\d{4} GB", lines[-1])
    return rows


def test_foot_and_top_train_and_hand_over_a_checkpoint_and_the_top_finds_its_batch(tmp_path):
    plot, saved = tmp_path / "loss.png", tmp_path / "model.pt"
    foot = run(f"{FOOT}.py", *TINY, "--plot", str(plot), "--save", str(saved))
    assert foot.returncode == 0, foot.stderr
    rows = check_output(foot.stdout)
    assert plot.stat().st_size > 5_000
    top = run(f"{TOP}.py", *TINY, "--plot", str(plot), "--load", str(saved))
    assert top.returncode == 0, top.stderr
    loaded = check_output(top.stdout)
    assert float(loaded[0][3]) <= float(rows[-1][3]) + 0.02  # goes on from where the foot ended
    assert re.search(r"^batch \d+ \(the search ended at .+\)$", top.stdout, re.MULTILINE)


@pytest.mark.parametrize("native", [True, False])
def test_a_device_without_bfloat16_trains_in_float32(native, monkeypatch, capsys):
    """Emulated, a product of this size takes a hundred times as long on a CPU."""
    device = replace(describe("cpu"), native_bf16=native)
    monkeypatch.setattr(script, "describe_in_child", lambda device_type: device)
    monkeypatch.setattr("sys.argv", ["01", *TINY[:-1], "1"])
    seen = []
    monkeypatch.setattr(trainer.Trainer, "train", lambda self: seen.append(self.run.recipe.dtype))
    script.main(replace(recipe_of(FOOT), dtype=torch.bfloat16), "the foot in 16 bits")
    assert seen == [torch.bfloat16 if native else torch.float32]
    said = f"training in float32: {device.name} has no bfloat16 arithmetic"
    assert (said in capsys.readouterr().out) != native


def test_a_slow_evaluation_does_not_move_the_rate(tmp_path, monkeypatch, capsys):
    """Each evaluation takes 1000 s by the loop's own clock, which must stand still meanwhile."""
    quick, real, extra = trainer.evaluate, time.perf_counter, [0.0]

    def evaluate(*arguments):
        extra[0] += 1000.0
        return quick(*arguments)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    clock = SimpleNamespace(perf_counter=lambda: real() + extra[0])
    monkeypatch.setattr(trainer, "time", clock)
    line = [f"{FOOT}.py", *TINY, "--plot", str(tmp_path / "loss.png")]
    monkeypatch.setattr("sys.argv", line)
    script.main(recipe_of(FOOT), "the foot")
    rows = check_output(capsys.readouterr().out)
    assert int(rows[1][5]) > 20  # 15 steps of 128 tokens: with the evaluations inside, 1 a second


@pytest.mark.parametrize("processes", [1, 2])
def test_ddp_trains_under_torchrun(tmp_path, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    batch = ["--batch-size", "2", "--accumulate", f"{processes}"]  # also in parts
    script = [f"{MANY}.py", *TINY, *batch, "--plot", str(tmp_path / "loss.png")]
    done = subprocess.run(
        [*command, f"--nproc_per_node={processes}", *script],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = check_output(done.stdout)
    assert bool(rows[0][6]) == (processes > 1)
    assert "Warning: destroy_process_group" not in done.stderr

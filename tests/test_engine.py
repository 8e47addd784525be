"""The engine knows no workload: one without torch, whose headline is bytes, goes all the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from common.cli import check, compare
from common.engine.contract import Disturbed
from common.engine.machine import without_folders, without_home
from common.engine.records import Records
from common.gpt.shape import Shape
from common.workloads.train.build import build
from common.workloads.train.presets import baseline
from common.workloads.train.settings import Settings
from ladders import LADDERS
from tests.conftest import PROJECT, measured

CLIMB = """
import sys, ladders
from common.cli import run
name, *options = sys.argv[1:]
ladders.LADDERS[name] = f"tests.{name}"
status = run.main(["--ladder", name, *options])
assert "torch" not in sys.modules
sys.exit(status)
"""


def start(name: str, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CLIMB, name, *options],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def climbed(name: str, *options: str) -> tuple[int, str]:
    process = start(name, *options)
    said, errors = process.communicate(timeout=120)
    assert not errors, errors
    return process.returncode, said


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The packing ladder's output and where its results are."""
    out = tmp_path_factory.mktemp("packing")
    return climbed("packing", "--out", str(out)), out


def test_a_workload_without_torch_climbs(packed):
    (status, said), out = packed
    assert status == 1  # a rung failed
    records = {r["rung"]: r for r in Records(out / "records.jsonl").read()}
    assert [records[n]["status"] for n in range(4)] == ["ok", "ok", "failed", "ok"]
    assert records[2]["reason"] == "not equivalent: what is unpacked is not what was packed"
    assert records[3]["applied"] == [1, 3]
    assert not any(r["measurement"].get("torch") for r in records.values())
    assert records[1]["measurement"]["in_effect"] == {"1": "level 1"}
    assert "tok" not in said


def test_its_tables_and_picture_follow_from_its_metrics(packed):
    _, out = packed
    table = pd.read_csv(out / "ladder.csv").set_index("rung")
    assert table.loc[1, "verdict"] == table.loc[3, "verdict"] == "smaller"
    assert table.loc[3, "x_base"] > table.loc[1, "x_base"] > 1
    assert "file, bytes" in (out / "ladder.md").read_text()
    assert (out / "ladder.png").stat().st_size > 5000


def test_it_is_compared_and_checked(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LADDERS, "packing", "tests.packing")
    _, out = packed
    assert compare.main([str(out), str(out)]) == 0
    assert check.main(["--against", str(out), str(out)]) == 0
    worse = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    for record in worse:
        if record["rung"] == 3:
            record["measurement"]["file_bytes"] += 1
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, worse)) + "\n")
    assert check.main(["--against", str(out), str(tmp_path)]) == 1
    assert "1 of 3 rungs are larger" in capsys.readouterr().out


def test_it_resumes_after_kills(tmp_path):
    moments = random.Random(0)
    for _ in range(6):
        victim = start("packing", "--resume", "--out", str(tmp_path))
        time.sleep(moments.uniform(0.3, 1.5))
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
    climbed("packing", "--resume", "--out", str(tmp_path))
    found = [
        (r["round"], r["rung"])
        for r in Records(tmp_path / "records.jsonl").read()
        if r["status"] == "ok"
    ]  # what failed is tried again
    assert sorted(found) == [(turn, number) for turn in (1, 2) for number in (0, 1, 3)]


def test_seeds_are_rounds_and_a_window_may_end_by_itself(tmp_path):
    status, said = climbed("walking", "--rounds", "5", "--out", str(tmp_path))
    assert status == 0, said
    records = Records(tmp_path / "records.jsonl").read()
    assert {(r["round"], r["measurement"]["seed"]) for r in records} == {
        (n, n) for n in range(1, 6)
    }
    strides = {r["measurement"]["strides"] for r in records if r["rung"] == 0}
    assert len(strides) > 1  # each seed walks its own way
    assert pd.read_csv(tmp_path / "ladder.csv")["verdict"][1] == "fewer"


def unusual(skip: set[int], freeze: bool = True):
    """Methods of a session that trains a frozen model's head by SGD, under a loss scaler."""

    def make_run(self):
        run = build(self.recipe, self.settings.shape, self.device)
        for name, parameter in run.model.named_parameters():
            parameter.requires_grad_(name.startswith("head") or not freeze)
        trained = [p for p in run.model.parameters() if p.requires_grad]
        run.optimizer = torch.optim.SGD(trained, lr=0.1)  # it counts no steps
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return run

    def train(self, inputs, targets):
        run, scale = self.run, self.scaler.get_scale()
        run.optimizer.zero_grad()
        loss = run.objective(inputs, targets)
        self.scaler.scale(loss).backward()
        if len(self.losses) in skip:
            run.model.head.weight.grad[0, 0] = torch.inf
        self.scaler.step(run.optimizer)
        self.scaler.update()
        run.skipped += self.scaler.get_scale() < scale
        return loss.detach()

    return {"make_run": make_run, "train": train}


SHAPE = Shape(layers=1, heads=1, emb_dim=8, context=8)
TINY = baseline("tiny"), Settings(shape=SHAPE, device="cpu", steps=4)


def test_frozen_layers_no_step_counter_and_skipped_steps_are_no_disturbance():
    found = measured(*TINY, **unusual(skip={1, 3}))
    assert len(found.step_s) == 4


def test_a_window_in_which_every_step_was_skipped_is_void():
    with pytest.raises(Disturbed, match="weights did not change"):
        measured(*TINY, **unusual(skip={2, 3, 4, 5}))


def test_an_update_that_nobody_accounts_for_is_void():
    spoilt = unusual(skip={3})
    honest = spoilt["train"]

    def silent(self, *batch):
        loss = honest(self, *batch)
        self.run.skipped = 0
        return loss

    with pytest.raises(Disturbed, match="6 steps made 5 updates"):
        measured(*TINY, **spoilt | {"train": silent})


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("/home/me/my_model.py", "my_model.py"),
        ("models/my_model.py", "models/my_model.py"),
        ("--out=/home/me/runs/", "--out=runs/"),
        ("/opt/py/bin/python '/home/me/a.py' --data /data/me/b", "python 'a.py' --data b"),
        (r"(\d+)/(\d+) tok/s", r"(\d+)/(\d+) tok/s"),
    ],
)
def test_a_record_has_paths_without_folders_of_one_machine(typed, recorded):
    assert without_folders(typed) == recorded


def test_a_path_with_spaces_is_known_by_being_there(tmp_path):
    (tmp_path / "of me").mkdir()
    assert without_folders(str(tmp_path / "of me")) == "of me"


def test_what_a_process_said_names_no_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    said = f'File "{PROJECT}/steps/run.py": no /home/me/text.txt, no /usr/lib/x'
    assert without_home(said) == 'File "steps/run.py": no ~/text.txt, no /usr/lib/x'
    monkeypatch.setenv("HOME", "/")
    assert without_home("/usr/lib/x") == "/usr/lib/x"

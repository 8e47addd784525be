"""The parallel ladder: every layout computes what one process does, and holds what it says."""

import signal
import subprocess
import sys
import time
from dataclasses import fields

import psutil
import pytest
import torch

from common.accelerator.device import describe
from common.engine.contract import DoesNotApply
from common.engine.records import Records
from common.gpt.shape import Shape
from common.report.plot import branches
from common.workloads.parallel import inspect
from common.workloads.parallel.layout import refuse
from common.workloads.parallel.pipeline_clock import predicted_bubble
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.train.parts import NETWORK
from common.workloads.train.presets import baseline
from common.workloads.train.recipe import Recipe
from ladders.parallel import LADDER
from tests.conftest import PROJECT, SHORT_RUN, climb, last_json, width

NUMBERS = range(1, LADDER.top + 1)
CPU = describe("cpu")


def foot(devices: int = 8) -> ParallelRecipe:
    return LADDER.foot(Recipe(devices=devices, dropout=0.0, batch_size=2), CPU)


def command(out, *options: str) -> tuple[str, ...]:
    fixed = ("--ladder", "parallel", "--preset", "tiny", "--device", "cpu", "--rounds", "1")
    return (*fixed, "--steps", "3", "--out", str(out), *options)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory, whole_machine):
    """The whole ladder with two gloo processes: its output, and its records by rung."""
    out = tmp_path_factory.mktemp("parallel")
    with whole_machine():  # how long a pipeline's stages compute is timed
        done = climb(*command(out, "--nproc", "2", "--profile"))
    return done, {record["rung"]: record for record in Records(out / "records.jsonl").read()}, out


def held(record: dict) -> dict:
    return record["measurement"]["parallel"]["memory_bytes"]


def sent(record: dict) -> dict:
    return record["measurement"]["parallel"]["sent_bytes"]


def test_every_rung_is_measured_and_equal_to_one_process(climbed):
    done, records, _ = climbed
    assert done.returncode == 0, done.stdout + done.stderr
    assert {n for n, r in records.items() if r["status"] == "ok"} == set(range(10))
    for number in range(10):
        found = records[number]["equivalence"]
        assert found["worst_gradient_error"] < 5e-6  # float32 against float64, gathered
        assert found["loss_error"] < 1e-6
    losses = {n: records[n]["measurement"]["losses"] for n in range(1, 10) if n != 2}
    for number, of_rung in losses.items():  # the same tokens, updated alike
        assert of_rung == pytest.approx(losses[1], rel=2e-4), number


def test_each_rung_holds_what_it_says(climbed):
    _, records, _ = climbed
    one = held(records[0])
    parts = ("parameters", "gradients", "optimizer")
    assert one["optimizer"] == pytest.approx(2 * one["parameters"], rel=1e-3)
    shares = {  # of one process's weights, gradients, and optimizer state
        1: (1.0, 1.0, 1.0),
        2: (1.0, 1.0, 1.0),
        3: (1.0, 1.0, 0.5),
        4: (0.5, 0.5, 0.5),
        5: (0.5, 0.5, 0.5),
        6: (0.5, 0.5, 0.5),
        8: (0.5, 0.5, 0.5),
        9: (0.5, 0.5, 0.5),
    }
    for number, expected in shares.items():
        found = [held(records[number])[part] / one[part] for part in parts]
        assert found == pytest.approx(expected, abs=0.02), number
    assert held(records[7])["parameters"] == pytest.approx(0.5 * one["parameters"], rel=0.02)
    assert held(records[5])["activations"] < held(records[4])["activations"]  # gathered weights
    assert held(records[6])["activations"] < held(records[5])["activations"]
    assert held(records[9])["activations"] < held(records[8])["activations"]


def test_bytes_sent_are_those_of_the_textbook(climbed):
    _, records, _ = climbed
    gradients = held(records[0])["gradients"]
    assert sent(records[0]) == {}
    assert sent(records[1])["all_reduce"] == pytest.approx(gradients, rel=0.01)
    assert sent(records[2])["all_reduce"] == pytest.approx(gradients, rel=0.01)  # for four batches
    assert sent(records[3])["broadcast"] == pytest.approx(gradients, rel=0.01)
    assert sent(records[4])["all_gather"] == pytest.approx(gradients / 2, rel=0.01)
    assert sent(records[5])["all_gather"] > 1.9 * sent(records[4])["all_gather"]
    shape = records[7]["settings"]["shape"]
    activation = 4 * shape["context"] * shape["emb_dim"] * 4  # windows, tokens, width, bytes
    # one in each half of a block and direction, and the embedding's, the head's, the loss's few
    assert sent(records[7])["all_reduce"] >= 4 * shape["layers"] * activation


def test_a_profile_shows_what_goes_between_processes(climbed):
    _, records, out = climbed
    for number in range(10):
        found = records[number]["measurement"]
        assert (found["profile"]["parts"][NETWORK] > 0) == (number > 0), number
        assert len(found["losses"]) == 2 + 3  # the profiled steps are no part of the measurement
    assert (out / "profile.png").exists()


def test_the_bubble_is_measured_beside_its_prediction(climbed):
    _, records, _ = climbed
    for number in (8, 9):
        found = records[number]["measurement"]["parallel"]["bubble"]
        assert found["predicted"] == predicted_bubble(2, 4) == 1 / 5
        # the last stage holds the output layer: stages are not equal, and more is idle
        assert found["predicted"] < found["idle"] < 1
        assert found["busy_s"][1] > found["busy_s"][0] > 0


def test_output_and_results_say_what_the_numbers_are(climbed):
    done, records, out = climbed
    assert width(done.stdout) <= 80
    assert "correctness and memory, not speed" in " ".join(done.stdout.split())
    assert records[10]["status"] == "skipped"
    assert "4, 6, 8" in records[10]["reason"]
    for name in ("ladder.png", "ladder.csv", "ladder.md"):
        assert (out / name).stat().st_size > 500
    page = (out / "ladder.md").read_text()
    for head in ("adds to", "activations, MiB", "sent in a step, MiB", "efficiency", "idle"):
        assert head in page
    assert "kept: of as many times one process's rate" in " ".join(done.stdout.split())


def test_a_two_dimensional_mesh_of_four_processes(tmp_path):
    done = climb(*command(tmp_path, "--nproc", "4", "--only", "10"), ceilings=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = Records(tmp_path / "records.jsonl").read()
    assert record["equivalence"]["worst_gradient_error"] < 5e-6
    assert record["ceilings"]["float32"] > 0
    assert record["measurement"]["in_effect"]["10"] == "2 x 2"
    whole = held(record)["whole_parameters"]
    assert held(record)["parameters"] == pytest.approx(whole / 4, rel=0.02)


def test_the_ladder_of_steps_ends_on_all_devices(tmp_path):
    done = climb(
        *("--preset", "tiny", "--device", "cpu", "--nproc", "2"),
        *("--only", "0,11", "--rounds", "1", "--steps", "2", "--batch-size", "2"),
        *("--out", str(tmp_path)),
        CXX="/no/such/compiler",  # eager: this is about processes
    )
    assert done.returncode == 0, done.stdout + done.stderr
    foot, top = Records(tmp_path / "records.jsonl").read()
    assert (foot["processes"], top["processes"]) == (1, 2)
    assert top["measurement"]["in_effect"]["11"] == "2 replicas"
    assert top["measurement"]["in_effect"]["7"] == "flash"
    assert "11 DDP on all devices" in done.stdout


def test_what_does_not_divide_is_a_sentence(tmp_path):
    """Two heads and two layers over three processes; 1F1B then has no pipeline to run on either."""
    done = climb(*command(tmp_path, "--nproc", "3", "--only", "7,8,9", "--json"))
    assert done.returncode == 1
    records = Records(tmp_path / "records.jsonl").read()
    assert [(record["status"], record["reason"]) for record in records] == [
        ("skipped", "2 heads do not divide over 3 processes (tensor)"),
        ("skipped", "2 layers do not divide over 3 processes (stages)"),
        ("skipped", "it adds to rung 8: 2 layers do not divide over 3 processes (stages)"),
    ]
    assert "Traceback" not in done.stdout + done.stderr
    assert last_json(done)["skipped"] == 3


def test_a_world_that_does_not_divide_the_mesh_is_a_sentence():
    assert "there are 6" in LADDER.rung(11).applies(CPU, foot(6))
    assert "there are 5" in LADDER.rung(10).applies(CPU, foot(5))
    with pytest.raises(DoesNotApply, match="3 layers do not divide over 2 processes"):
        refuse(LADDER.compose(foot(2), LADDER.chain(8)), Shape(layers=3, heads=2, emb_dim=32))


@pytest.mark.parametrize("killed", ["runner", "launcher", "worker"])
def test_no_process_outlives_a_kill(tmp_path, killed):
    options = ("--nproc", "2", "--only", "1", "--steps", "5000")
    runner = subprocess.Popen(
        [sys.executable, *SHORT_RUN, *command(tmp_path, *options)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workers = workers_under(runner)
    launcher = workers[0].parent()
    victim = {"runner": runner, "launcher": launcher, "worker": workers[1]}[killed]
    victim.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([*workers, launcher], timeout=20)
    assert alive == []
    stdout, _ = runner.communicate(timeout=60)
    if killed != "runner":
        assert runner.returncode == 1
        (record,) = Records(tmp_path / "records.jsonl").read()
        assert record["status"] == "failed"
        assert record["reason"]


def workers_under(runner: subprocess.Popen) -> list[psutil.Process]:
    """The two processes that torchrun has started, once both are there and at work."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = []
        for child in psutil.Process(runner.pid).children(recursive=True):
            try:
                if "common.engine.child" in child.cmdline() and "RANK" in child.environ():
                    found.append(child)
            except psutil.Error:
                continue
        if len(found) == 2 and all(map(joined, found)):
            return found
        time.sleep(0.1)
    raise AssertionError("torchrun started no workers")


def joined(process: psutil.Process) -> bool:
    """Past its start-up: it speaks to the store, and to the other process."""
    return sum(c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp")) > 1


@pytest.mark.parametrize("number", NUMBERS)
def test_exactly_the_declared_fields_change(number):
    rung = LADDER.rung(number)
    below = LADDER.compose(foot(), LADDER.chain(LADDER.rung(number).base))
    above = rung.apply(below)
    changed = {f.name for f in fields(above) if getattr(below, f.name) != getattr(above, f.name)}
    assert changed == set(rung.changes)


@pytest.mark.parametrize("number", NUMBERS)
def test_titles_and_bases(number):
    rung = LADDER.rung(number)
    assert rung.module.__doc__.startswith(f"{number}. {rung.title}.")
    assert f"step{number:02d}_" in rung.module.__name__
    assert 0 <= LADDER.rung(number).base < number
    recipe = LADDER.compose(foot(), LADDER.chain(number))
    assert recipe.processes == 8
    assert ParallelRecipe.from_json(recipe.to_json()) == recipe


def test_micro_batches_divide_the_windows():
    gpt2 = LADDER.foot(Recipe(devices=4, batch_size=8), CPU)
    pipeline = LADDER.compose(gpt2, LADDER.chain(8))
    assert (pipeline.windows, pipeline.micro_batches) == (32, 16)
    tiny = LADDER.compose(foot(2), LADDER.chain(8))
    assert (tiny.windows, tiny.micro_batches) == (4, 4)
    assert LADDER.compose(foot(2), LADDER.chain(2)).micro_batches == 4


def test_the_foot_is_float32_without_dropout_on_a_cpu():
    recipe = LADDER.foot(baseline("gpt2"), CPU)
    assert recipe.dropout == 0.0
    assert recipe.format == "float32"
    assert recipe.attention.__name__ == "FlashAttention"


def test_branches_show_what_adds_to_what():
    rows = [
        {"rung": 0, "name": "baseline", "base": None},
        {"rung": 1, "name": "a", "base": 0},
        {"rung": 2, "name": "b", "base": 1},
        {"rung": 3, "name": "c", "base": 0},
        {"rung": 4, "name": "d", "base": 3},
        {"rung": 5, "name": "e", "base": 3},
    ]
    assert [label.rstrip() for label in branches(rows)] == [
        "0 baseline",
        "1 a",
        "2 b",
        "└─ 3 c (on 0)",
        "   4 d",
        "   └─ 5 e (on 3)",
    ]


@pytest.mark.parametrize(("backend", "moves"), [("nccl", True), ("xccl", True), ("gloo", False)])
def test_a_devices_backend_reduces_tensors_of_the_device(monkeypatch, backend, moves):
    asked = []
    monkeypatch.setattr(inspect.dist, "get_backend", lambda: backend)
    monkeypatch.setattr(inspect.dist, "get_world_size", lambda: 1)
    device = lambda: asked.append(backend) or torch.device("cpu")  # noqa: E731
    monkeypatch.setattr(torch.accelerator, "current_accelerator", device)
    assert inspect.largest([1.0, 2.0]) == [1.0, 2.0]
    assert bool(asked) == moves

"""Training that is ended, damaged, or started again, in one process: nothing is lost by it."""

import importlib
import io
import json
import os
import re
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.accelerator.device import describe_in_child
from common.engine.errors import UserError
from common.engine.process import Outcome
from common.scripts import position, script, trainer
from common.scripts.outputs import sole_user
from common.scripts.position import POSITION, Found, Position, converted, read, unlike
from common.workloads.train import plot_losses as plotting
from common.workloads.train.build import seed_dropout

S = ("--preset", "tiny", "--layers", "1", "--heads", "1", "--emb-dim", "4", "--context", "8")
LINE = re.compile(r"^Ep (\d+), Step (\d+), (Train: \S+ Val: \S+)", re.MULTILINE)


class Place:
    """A folder in which a script is run again and again, in this process."""

    def __init__(self, folder: Path, monkeypatch, capsys) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.saved = folder / "checkpoints"
        monkeypatch.setattr(trainer, "generate", lambda *model: "a sample")  # slow, and optional
        monkeypatch.setattr(plotting, "plot_loss", lambda *curve: None)
        monkeypatch.setattr(trainer, "EVAL_WINDOWS", 1)
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 12)

    def train(self, *options, name: str = "00_orig", save: bool = True, batch: int = 2) -> str:
        """What it printed. Raises SystemExit as the script does."""
        module = importlib.import_module(name)
        fixed = ("--device", "cpu", "--text", self.folder / "text.txt", "--eval-every", "1")
        fixed += ("--batch-size", batch) if batch else ()
        fixed += ("--checkpoint", self.saved) if save else ()
        line = [name, *S, "--plot", self.folder / "loss.png", *fixed, *options]
        self.monkeypatch.setattr("sys.argv", [str(word) for word in line])
        self.capsys.readouterr()
        script.main(module.RECIPE, module.__doc__)
        return self.capsys.readouterr().out

    def refused(self, *options, **more) -> str:
        """The one line with which it ends."""
        with pytest.raises(SystemExit) as ended:
            self.train(*options, **more)
        assert ended.value.code == 2
        said = self.capsys.readouterr().err
        assert said.startswith("error: ")
        assert len(said.splitlines()) == 1
        return said

    def names(self) -> list[str]:
        return sorted(path.name for path in self.saved.iterdir())

    def position(self, step: int) -> dict:
        return json.loads((self.saved / f"step-{step:06d}" / POSITION).read_text())


@pytest.fixture
def place(tmp_path, monkeypatch, capsys) -> Place:
    return Place(tmp_path, monkeypatch, capsys)


def steps(said: str) -> list[int]:
    return [int(step) for _, step, _ in LINE.findall(said)]


def losses(said: str) -> dict[int, str]:
    return {int(step): loss for _, step, loss in LINE.findall(said)}


def test_a_finished_run_says_so_and_more_goes_on(place):
    first = place.train("--epochs", "1")
    again = place.train("--epochs", "1")
    assert steps(again) == []
    assert "nothing to do: 1 epoch(s) and " in again
    assert "--epochs 1, are totals; give larger ones" in again
    more = place.train("--epochs", "2")
    assert steps(more) == [step + len(steps(first)) for step in steps(first)]
    assert {epoch for epoch, _, _ in LINE.findall(more)} == {"2"}
    assert place.position(2 * len(steps(first)))["epoch"] == 3


def test_a_limit_is_a_total(place):
    assert steps(place.train("--max-steps", "2")) == [0, 1]
    assert steps(place.train("--max-steps", "2")) == []
    said = place.train("--max-steps", "1")
    assert "2 step(s) are done" in said and "--max-steps 1" in said
    assert steps(place.train("--max-steps", "3")) == [2]


def test_an_epoch_ends_with_a_checkpoint_below_the_limit_of_steps(place):
    said = place.train("--max-steps", "9999", "--epochs", "1")
    assert place.names() == [f"step-{len(steps(said)):06d}"]


def test_a_finished_run_still_writes_its_weights(place, tmp_path):
    place.train("--max-steps", "2")
    place.train("--max-steps", "2", "--save", tmp_path / "W.pt")
    assert (tmp_path / "W.pt").stat().st_size > 100_000


def test_a_restart_changes_no_loss_dropout_or_not(place, tmp_path):
    """Its random numbers are where they were: the loader draws one whenever it starts."""
    whole = losses(place.train("--max-steps", "5", "--dropout", "0.3"))
    place.saved = tmp_path / "parts"
    parts = losses(place.train("--max-steps", "2", "--dropout", "0.3"))
    parts |= losses(place.train("--max-steps", "5", "--dropout", "0.3"))
    assert parts == whole


def test_the_loss_curve_is_whole_after_a_restart(place, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "plot_loss", lambda history, *_: drawn.append(history))
    place.train("--max-steps", "2")
    place.train("--max-steps", "4")
    assert [(step, rate) for step, _, _, rate in drawn[-1]] == [(step, 5e-4) for step in range(4)]


# -- what comes late --


def test_a_terminal_without_the_samples_letters_loses_nothing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "generate", lambda *model: "Ёvery effort")
    for_printing = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", for_printing)
    place.train("--max-steps", "1", "--save", tmp_path / "W.pt", save=False)
    assert (tmp_path / "W.pt").exists()
    assert b"?very effort" in for_printing.buffer.getvalue()


def broken(*arguments, **named):
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("late", ["generate", "peak_resident_bytes", "plot_loss", "evaluate"])
def test_what_comes_after_the_weights_cannot_end_the_run(place, tmp_path, monkeypatch, late):
    saved = []

    def fails(*arguments, **named):
        saved.append((tmp_path / "W.pt").exists())
        broken()

    monkeypatch.setattr(plotting if late == "plot_loss" else trainer, late, fails)
    options = ("--max-steps", "1", "--save", tmp_path / "W.pt")
    if late == "evaluate":  # not optional, and yet later than the weights
        with pytest.raises(ZeroDivisionError):
            place.train(*options, save=False)
    else:
        place.train(*options, save=False)
    assert saved == [True]


def test_a_reader_that_leaves_does_not_end_the_run(place, tmp_path, monkeypatch):
    def gone(text):
        raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=gone, flush=lambda: None))
    module = importlib.import_module("00_orig")
    options = ("--max-steps", "1", "--batch-size", "2", "--plot", str(tmp_path / "loss.png"))
    line = ["00_orig.py", *S, "--device", "cpu", *options, "--save", str(tmp_path / "W.pt")]
    monkeypatch.setattr("sys.argv", line)
    script.main(module.RECIPE, module.__doc__)
    assert (tmp_path / "W.pt").exists()


@pytest.mark.parametrize(("option", "value", "words"), [
    ("--save", "FOLDER", "--save FOLDER: not a file"),
    ("--save", "W.pt" * 70, "cannot be written (File name too long)"),
    ("--plot", "FOLDER", "--plot FOLDER: "),
    ("--plot", "FOLDER/loss.docx", "must end in .png, .pdf, .svg"),
    ("--plot", "/proc/loss.png", "--plot /proc: cannot be written"),
    ("--save", "FOLDER/../text.txt", "--text names it, too; give another file"),
    ("--save", "FOLDER/../loss.png", "--save names it, too"),
    ("--checkpoint", "FOLDER/../text.txt", "cannot be written (File exists)"),
])  # fmt: skip
def test_outputs_are_checked_before_training(place, tmp_path, monkeypatch, option, value, words):
    monkeypatch.setattr(trainer, "train_step", broken)
    (tmp_path / "FOLDER").mkdir()
    before = (tmp_path / "text.txt").read_text()
    said = place.refused(option, value.replace("FOLDER", str(tmp_path / "FOLDER")), save=False)
    assert words in said.replace(str(tmp_path / "FOLDER"), "FOLDER")
    assert (tmp_path / "text.txt").read_text() == before


def test_two_runs_do_not_share_a_checkpoint_folder(place, tmp_path):
    place.saved.mkdir()
    with sole_user("--checkpoint", place.saved):
        assert "checkpoints: another run is using it" in place.refused("--max-steps", "1")
    assert steps(place.train("--max-steps", "1")) == [0]


# -- what is found --


@pytest.mark.parametrize("damage", ["cut", "gone", "[]"])
def test_a_torn_checkpoint_is_replaced_and_not_counted(place, damage):
    said = place.train("--max-steps", "6", "--checkpoint-every", "2")
    newest = place.saved / "step-000006"
    assert place.names() == ["step-000004", "step-000006"]
    if damage == "cut":
        part = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
        os.truncate(part, part.stat().st_size // 2)
    elif damage == "gone":
        (newest / POSITION).unlink()
    else:
        (newest / POSITION).write_text(damage)
    (place.saved / "step-000005.partial").mkdir()
    again = place.train("--max-steps", "6", "--checkpoint-every", "2")
    assert "step-000006 is not whole; going back to the one before it" in again
    assert losses(again) == {step: loss for step, loss in losses(said).items() if step >= 4}
    assert place.names() == ["step-000004", "step-000006"]
    assert read(newest)


@pytest.mark.parametrize(("key", "value"), [
    ("shape", None), ("shape", "large"), ("files", None), ("files", []), ("files", {"x": 1}),
    ("epoch", "first"), ("batch_size", None), ("processes", {}), ("history", [[1, 2]]),
    ("history", 5), ("batch_size", 0),
])  # fmt: skip
def test_a_position_that_says_too_little_is_not_whole(tmp_path, key, value):
    told = {"epoch": 1, "batches": 2, "steps": 2, "batch_size": 2, "processes": 1, "shape": {}}
    told |= {"files": {}, "history": [[0, 1.0, 2.0]]}
    path = tmp_path / POSITION
    path.write_text(json.dumps(told))
    assert read(tmp_path).position == Position(1, 2, 2)
    told |= {key: value}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    assert read(tmp_path) is None


def test_a_torn_checkpoint_elsewhere_goes_with_the_next_save(place):
    place.train("--max-steps", "4", "--checkpoint-every", "2")
    (place.saved / "step-000004" / POSITION).write_text("")
    place.train("--max-steps", "3")
    assert place.names() == ["step-000002", "step-000003"]


def test_what_is_no_checkpoint_is_left_alone(place):
    theirs = place.saved / "step-000001"
    theirs.mkdir(parents=True)
    (theirs / "pytorch_model.bin").write_text("somebody's")
    assert "step-000001: no checkpoint; give another folder" in place.refused("--max-steps", "1")
    place.train("--max-steps", "2")
    place.train("--max-steps", "3")
    place.train("--max-steps", "4")
    assert (theirs / "pytorch_model.bin").read_text() == "somebody's"


def test_after_a_million_steps_the_newest_is_the_newest(place):
    place.train("--max-steps", "1")
    first = place.saved / "step-000001"
    first.rename(place.saved / "step-999999")
    place.train("--max-steps", "2")
    (place.saved / "step-000002").rename(place.saved / "step-1000000")
    assert "going on from" in (said := place.train("--max-steps", "2"))
    assert "step-1000000" in said


def test_damage_inside_of_a_file_is_a_sentence(place):
    place.train("--max-steps", "1")
    for part in (place.saved / "step-000001").glob("*.distcp"):
        part.write_bytes(bytes(part.stat().st_size))
    assert "step-000001 cannot be read" in place.refused("--max-steps", "2")


@pytest.fixture
def full_disk():
    """No file can grow past 200,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_sentence_and_keeps_the_older_checkpoint(place, request):
    place.train("--max-steps", "1")
    request.getfixturevalue("full_disk")
    said = place.refused("--max-steps", "2")
    assert "cannot be written (File too large); the checkpoints that were there are kept" in said
    assert place.names() == ["step-000001"]
    assert read(place.saved / "step-000001")


def test_a_full_disk_keeps_the_older_weights(place, tmp_path, request):
    path = tmp_path / "W.pt"
    place.train("--max-steps", "1", "--save", path, save=False)
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    said = place.refused("--max-steps", "1", "--save", path, save=False)
    assert f"--save {path}: cannot be written" in said
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"W.pt", "text.txt"}


# -- going on with something else --


def test_another_recipe_text_or_shape_is_one_sentence_that_says_what_differs(place):
    place.train("--max-steps", "1")
    said = place.refused("--max-steps", "2", name="01_opt_single_gpu")
    assert "step-000001 is of another recipe (" in said
    assert "fused_optimizer False, not True" in said
    assert "dropout 0.0, not 0.5" in place.refused("--max-steps", "2", "--dropout", "0.5")
    assert "another shape (layers 1, not 2)" in place.refused("--max-steps", "2", "--layers", "2")
    (place.folder / "text.txt").write_text("another text, of as many words or more " * 12)
    assert "is of another text (sha256 " in place.refused("--max-steps", "2")
    assert place.names() == ["step-000001"]


def test_another_vocabulary_is_refused(place, monkeypatch):
    place.train("--max-steps", "1")
    monkeypatch.setattr(position, "VOCABULARY", {"vocab.bpe": "0", "encoder.json": "1"})
    assert "is of another vocabulary (vocab.bpe" in place.refused("--max-steps", "2")


def test_a_batch_that_is_asked_for_is_taken_and_said(place):
    place.train("--max-steps", "4")
    said = place.train("--max-steps", "5", batch=3)
    assert "a step had 2 window(s) (1 process(es)), and has 3 now (1)" in said
    assert (place.position(5)["batches"], place.position(5)["batch_size"]) == (3, 3)  # 8 of 9
    assert place.train("--max-steps", "6", batch=0).count("a step had") == 0  # as it was left


def test_a_choice_that_came_later_was_plain_before():
    ours = {"recipe": {"weight_decay": 0.1, "dropout": 0.5}, "shape": {"layers": 1}}
    theirs = {"recipe": {"dropout": 0.5}, "shape": {"layers": 1}}
    assert unlike(theirs, ours) == ""
    theirs |= {"recipe": "secret"}
    assert unlike(theirs, ours) == "another recipe (it does not say which)"


@pytest.mark.parametrize(("windows", "last", "expected"), [
    (4, 20, Position(3, 6, 50)),  # nothing else: the same place
    (8, 10, Position(3, 3, 50)),
    (5, 16, Position(3, 4, 50)),  # less than a step before it
    (1, 80, Position(3, 24, 50)),
    (16, 1, Position(4, 0, 50)),  # what is left of the epoch is less than a step
])  # fmt: skip
def test_a_place_in_the_text_is_converted(windows, last, expected):
    found = Found(path=Path(), position=Position(3, 6, 50), batch_size=2, processes=2,
                  device="cpu", history=[], identity={})  # fmt: skip
    assert converted(found, windows, last) == expected


def test_a_search_that_fails_is_an_error(place, monkeypatch):
    failed = Outcome(status="failed", reason="exit status 1: No module named 'x'", wall_s=1.0)
    monkeypatch.setattr(trainer, "run_job", lambda job, timeout: failed)
    said = place.refused("--max-steps", "1", name="01_opt_single_gpu", save=False, batch=0)
    assert "--batch-size: the search failed at batch 4: exit status 1: No module named 'x'" in said


def test_random_numbers_differ_by_process_and_weights_do_not():
    states = []
    for rank, done in ((0, 0), (1, 0), (0, 1), (1, 1)):
        seed_dropout(rank, done)
        states.append(torch.rand(1).item())
    assert len({*states}) == 4


def test_a_device_is_described_from_every_folder(tmp_path, monkeypatch):
    """The process that looks for it finds the project, whether there is such a device or not."""
    monkeypatch.chdir(tmp_path)
    try:
        assert describe_in_child("cuda").type == "cuda"
    except UserError as error:
        assert "No module named" not in str(error)

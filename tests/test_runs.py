"""Runs live side by side: each in its own folder, named by `last`, kept for others by publish."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import check, compare, publish, readme, run, runs
from common.engine.climb import Climb
from common.engine.records import Records
from common.report.frame import to_csv, to_frame
from ladders import LADDERS
from tests.conftest import PROJECT, fake_ladder, write_records
from tests.packing import LADDER as PACKING
from tests.test_resume import PLAN

WHOLE = tuple(range(PLAN.ladder.top + 1))
RATES = {0: [100.0, 101.0], 1: [101.0, 100.0], 3: [150.0, 151.0]}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, and a ladder of seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(LADDERS, "packing", "tests.packing")
    return tmp_path


def pack(*options: str) -> int:
    return run.main(["--ladder", "packing", "--only", "0,1", "--rounds", "1", *options])


def test_each_run_has_a_folder_of_its_own(here, capsys):
    assert pack() == pack() == 0
    first, second = runs.run_folders("packing")
    for folder in (first, second):
        assert len(Records(folder / "records.jsonl").read()) == 2
        assert (folder / "ladder.png").exists()
    assert [path.name for path in (here / "results").iterdir()] == ["runs"]
    assert f"Open {second}" in capsys.readouterr().out
    assert compare.main(["last-1", "last"]) == 0
    assert check.main(["--against", first.name]) == 0
    assert runs.run_folders("steps") == []


def test_a_folder_that_is_given_is_written_exactly(here):
    assert pack("--out", "mine") == 0
    assert (here / "mine" / "ladder.csv").exists()
    assert not (here / "results").exists()


@pytest.mark.parametrize("named", ["last", "last-1", "last-0003"])
def test_a_run_that_is_not_there_is_a_sentence(here, refusal, named):
    assert f"{named}: no such run in results/runs; there are none yet" in refusal(
        compare.main, [named, named]
    )


def test_a_run_is_found_by_name(here):
    names = [f"2026-01-0{day}-120000-steps-made-up" for day in (1, 2, 3)]
    for name in (*names, "notes", "2026-01-09-steps"):
        (runs.RUNS / name).mkdir(parents=True)
    assert runs.find_run("last") == str(runs.RUNS / names[2])
    assert runs.find_run("last-2") == str(runs.RUNS / names[0])
    assert runs.find_run(names[1]) == str(runs.RUNS / names[1])
    assert runs.find_run("elsewhere") == "elsewhere"


def test_resume_goes_on_with_the_latest_run_of_the_same_kind(here, capsys):
    pack()
    (folder,) = runs.run_folders()
    first, _ = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text(first + "\n")
    assert pack("--resume") == 0
    assert "resuming: 1 of " in capsys.readouterr().out
    assert runs.run_folders() == [folder]
    assert len(Records(folder / "records.jsonl").read()) == 2
    other = json.loads(first) | {"preset": "another"}
    (folder / "records.jsonl").write_text(json.dumps(other) + "\n")
    assert pack("--resume") == 0
    assert "starting afresh" in capsys.readouterr().out
    assert len(runs.run_folders()) == 2
    assert (folder / "records.jsonl").read_text() == json.dumps(other) + "\n"


def test_nothing_recorded_leaves_nothing(here, monkeypatch, capsys):
    def interrupted(climb):
        raise KeyboardInterrupt

    monkeypatch.setattr(Climb, "run", interrupted)
    assert pack() == run.INTERRUPTED
    assert "nothing was recorded" in capsys.readouterr().out
    assert runs.run_folders() == []


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({"preset": "cpu", "numbers": WHOLE}, True),
        ({"preset": "tiny", "numbers": WHOLE}, False),
        ({"preset": "cpu", "numbers": (0, 5)}, False),
    ],
)
def test_only_a_whole_run_of_some_size_is_shown_as_the_latest(changes, whole):
    assert runs.is_whole(replace(PLAN, **changes)) is whole


def test_the_latest_whole_run_is_shown(here, capsys):
    folder = here / "a-run"
    folder.mkdir()
    for name in runs.LATEST:
        (folder / name).write_text(f"of this run: {name}")
    runs.RESULTS.mkdir()
    runs.show_as_latest(folder, print)
    assert (runs.RESULTS / "ladder.png").read_text() == "of this run: ladder.png"
    (folder / "ladder.md").unlink()
    runs.show_as_latest(folder, print)
    assert "warning: results/ladder.md is not written" in capsys.readouterr().out


def test_results_of_runs_are_not_tracked():
    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
        return done.stdout.splitlines()

    left = ["results/runs/x/ladder.png", *(f"results/{name}" for name in runs.LATEST)]
    left += ["results/loss.png", "results/ddp.jsonl", "results/profile.png", "results/losses.png"]
    assert git("check-ignore", *left) == left
    assert [name for name in git("ls-files", "results") if name.count("/") == 1] == [
        "results/published_a100.csv"
    ]


def test_a_run_is_published_and_readme_follows(here, monkeypatch, capsys):
    monkeypatch.setattr(readme, "PROJECT", here)
    for name in readme.READMES:
        (here / name).write_text("<!-- table results/made-up -->\n<!-- /table -->\n")
    records = fake_ladder(RATES, ladder="tests.packing")
    for record in records:
        record["measurement"]["file_bytes"] = 1000 - record["rung"]
        record["machine"] = {"device_type": "cuda", "device": "Made up!"}
    write_records(runs.RUNS / "2026-01-01-120000-packing-made-up" / "records.jsonl", records)
    assert publish.main(["last", "results/made-up"]) == 0
    kept = Records(here / "results" / "made-up" / "records.jsonl").read()
    assert kept == records
    table = (here / "results" / "made-up" / "ladder.csv").read_text()
    assert table == to_csv(to_frame(records, PACKING.workload))
    assert "| 999 |" in (here / "README.md").read_text()
    assert "results/made-up/ladder.png" in capsys.readouterr().out
    assert publish.main(["last", "results/made-up"]) == 0  # the same once more
    assert publish.main(["last"]) == 0
    assert (here / "results" / "made-up" / "packing" / "ladder.md").exists()


def test_a_run_of_another_machine_is_not_published_over(here, refusal):
    machine = {"device_type": "cpu", "cpus_allowed": 2, "threads": 2}
    for folder, device, units in (("One", "One", "A"), ("Another", "B", "A"), ("Old", "One", "C")):
        own = machine | {"device": device, "instruction_set": units}
        write_records(here / folder / "records.jsonl", fake_ladder(RATES, machine=own))
    for folder, there in (("Another", "B (2 threads, A)"), ("Old", "One (2 threads, C)")):
        said = refusal(publish.main, ["One/records.jsonl", folder])
        assert f"holds a run of another device ({there}, not One (2 threads, A))" in said
    assert publish.usual_folder(Records(here / "One" / "records.jsonl").read()) == Path(
        "results/one-2-cores"
    )
